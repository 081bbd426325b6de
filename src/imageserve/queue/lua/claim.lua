-- Takes up to n jobs and leases them to this claim: those at the head, but for a tenth from the first background job on
-- where both classes wait. Jobs that cannot end by their deadline are answered instead. First it ends expired leases: their
-- jobs go to retry, or, at max_attempts, to the dead list.
-- KEYS 1 queue 2 hold 3 retry 4 leases(zset) 5 inflight(hash) 6 attempts(hash) 7 dead(list) 8 stats(hash) 9 waiting(zset)
-- ARGV 1 n  2 lease_ms  3 token  4 max_attempts  5 guard_ms  6 may take a redelivered job (1/0)  7 min_depth
--      8 the same claim was sent before and its reply was lost (1/0)  9 prefix of result keys  10 prefix of pixel keys
--      11 ms from now until its results are told, without the time of the batch itself; then (size, ms)* of batches, with
--      rising sizes (none: unknown)
-- Returns {now, jobs, expired, dead, lost}; lost is how often the one job, a redelivered one, has lost its worker, else 0.
-- A worker passes ARGV 6 = 1 in at most every second claim, so that redelivered jobs never starve the others.
local wrong = wrong_type({'list', 'list', 'list', 'zset', 'hash', 'hash', [8] = 'hash', [9] = 'zset'})
if wrong then return wrong end
local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000)
local n, lease, token, maxatt = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] .. '\n', tonumber(ARGV[4])
local out, expired, dead, both_wait = {}, {}, {}, false
local function give_up(entry, job, reason)
  dead[#dead + 1] = entry
  bury(KEYS[7], entry, reason, now)
  settle(job, ARGV[9], ARGV[10], 'model_failed', reason)
end
local function answer(lost)
  if both_wait and #out > 0 then redis.call('HINCRBY', KEYS[8], 'shared', #out) end
  if #out > 0 then for _, key in ipairs({KEYS[4], KEYS[5], KEYS[9]}) do redis.call('PEXPIRE', key, ARGV[5]) end end
  if #expired > 0 then redis.call('HINCRBY', KEYS[8], 'expired', #expired) end
  if #dead > 0 then redis.call('HINCRBY', KEYS[8], 'dead', #dead) end
  return {now, out, expired, dead, lost}
end
local function losses(id) return tonumber(redis.call('HGET', KEYS[6], id) or 0) or 0 end
if ARGV[8] == '1' then                                  -- what it took then is still leased to it, and nobody works on it
  redis.call('HDEL', KEYS[5], '')                       -- starts with a write that frees, see extend.lua
  local held, times = redis.call('HGETALL', KEYS[5]), 0
  for i = 1, #held, 2 do
    if string.sub(held[i + 1], 1, #token) == token then
      out[#out + 1] = string.sub(held[i + 1], #token + 1); times = losses(held[i])
      redis.call('ZADD', KEYS[4], now + lease, held[i])
    end
  end
  if #out > 0 then return answer(times) end
end
local lost = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now, 'LIMIT', 0, 32)
for _, id in ipairs(lost) do
  local record = redis.call('HGET', KEYS[5], id)
  redis.call('ZREM', KEYS[4], id); redis.call('HDEL', KEYS[5], id)
  if record then
    local entry = string.sub(record, string.find(record, '\n', 1, true) + 1)
    if redis.call('HINCRBY', KEYS[6], id, 1) >= maxatt then
      redis.call('HDEL', KEYS[6], id)
      local ok, job = pcall(cjson.decode, entry)
      give_up(entry, ok and job or nil, 'its worker died each time it ran')
    else
      redis.call('RPUSH', KEYS[3], entry)
      redis.call('PEXPIRE', KEYS[6], ARGV[5]); redis.call('PEXPIRE', KEYS[3], ARGV[5])
    end
  end
end
local ended = now                                       -- when a job that is taken now has its result
local function expect(count)
  for i = 12, #ARGV, 2 do
    ended = now + tonumber(ARGV[11]) + tonumber(ARGV[i + 1])
    if tonumber(ARGV[i]) >= count then break end
  end
end
local function take(list)
  local candidates, ids, seen, gone = {}, {}, {}, {}
  for _, entry in ipairs(list) do
    local ok, job = pcall(cjson.decode, entry)
    if not ok or type(job) ~= 'table' or type(job.id) ~= 'string' then give_up(entry, nil, 'not a job')
    elseif type(job.deadline) == 'number' and (job.deadline <= now or job.deadline < ended) then
      expired[#expired + 1] = entry; gone[#gone + 1] = job.id; redis.call('HDEL', KEYS[6], job.id)
      -- Web processes of 0.1.0, which name no preparation, know "busy" and not this code.
      local code = type(job.preparation) == 'string' and 'would_time_out' or 'busy'
      if job.deadline > now then settle(job, ARGV[9], ARGV[10], code, 'the answer would come too late') end
    elseif not seen[job.id] then
      seen[job.id] = true; candidates[#candidates + 1] = entry; ids[#ids + 1] = job.id; gone[#gone + 1] = job.id
    end
  end
  if #gone > 0 then redis.call('ZREM', KEYS[9], unpack(gone)) end
  if #ids == 0 then return end
  local scores, leases, records = redis.call('ZMSCORE', KEYS[4], unpack(ids)), {}, {}
  for i, id in ipairs(ids) do
    if not scores[i] then                               -- already leased means a duplicate entry, which is dropped
      out[#out + 1] = candidates[i]
      leases[#leases + 1] = now + lease; leases[#leases + 1] = id
      records[#records + 1] = id; records[#records + 1] = token .. candidates[i]
    end
  end
  if #leases > 0 then redis.call('ZADD', KEYS[4], unpack(leases)); redis.call('HSET', KEYS[5], unpack(records)) end
  return ids[1]
end
if ARGV[6] == '1' and redis.call('EXISTS', KEYS[3]) == 1 then   -- a redelivered job runs alone
  expect(1)
  for _ = 1, 8 do
    local popped = redis.call('LPOP', KEYS[3], 1); if not popped then break end
    local id = take(popped); if #out > 0 then return answer(math.max(1, losses(id))) end
  end
end
local length = redis.call('LLEN', KEYS[1])
if length < tonumber(ARGV[7]) then return answer(0) end
expect(math.min(n, length + redis.call('LLEN', KEYS[2])))
if length > 1 and n > 0 and key_of(redis.call('LINDEX', KEYS[1], 0)) == 0 then
  local first = boundary_of(KEYS[1], length)            -- both classes wait: of every ten jobs one is of the background
  if first < length then
    local shared = tonumber(redis.call('HGET', KEYS[8], 'shared') or 0) or 0
    both_wait = true
    local tenth = math.floor((shared + n) / 10) - math.floor(shared / 10)
    local found = tenth > 0 and redis.call('LRANGE', KEYS[1], first, first + tenth - 1) or {}
    for _, entry in ipairs(found) do redis.call('LREM', KEYS[1], first < length / 2 and 1 or -1, entry) end
    take(found)
  end
end
for _ = 1, 8 do                                         -- limits the work per call
  local popped = redis.call('LPOP', KEYS[2], n - #out)
  if popped then take(popped) end
  if #out < n then
    popped = redis.call('LPOP', KEYS[1], n - #out); if not popped then break end
    take(popped)
  end
  if #out >= n then break end
end
return answer(0)
