-- Accepts a job, or returns why not. Its pixels must be in p:<id> already, because a worker may take it at once.
-- KEYS 1 queue  2 hold  3 id:<id>  4 p:<id>  5 retry  6 leases  7 stats
-- ARGV 1 nonce  2 max jobs waiting  3 timeout_ms  4 id_ttl_ms  5 job JSON without its closing brace
--      6 bytes of this job  7 max bytes of all jobs  8 max backlog that can be done in time (0: unknown)
-- Returns {code, backlog}: 0 accepted, 1 own retry, -1 full, -2 id collision, -3 no memory, -4 over the
--      byte limit, -5 cannot be done in time, -6 pixels missing (their SET was refused, or they were deleted since;
--      the caller knows which, and counts the first with refuse.lua)
local wrong = wrong_type({[7] = 'hash'}); if wrong then return wrong end
local have = redis.call('GET', KEYS[3])
if have then if have == ARGV[1] then return {1, 0} else return {-2, 0} end end
local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000)
local waiting = redis.call('LLEN', KEYS[1]) + redis.call('LLEN', KEYS[2])
local others = redis.call('LLEN', KEYS[5]) + redis.call('ZCARD', KEYS[6])
local function verdict()
  if redis.call('EXISTS', KEYS[4]) == 0 then return -6 end
  if waiting >= tonumber(ARGV[2]) then return -1 end
  if (waiting + others + 1) * tonumber(ARGV[6]) > tonumber(ARGV[7]) then return -4 end
  if tonumber(ARGV[8]) > 0 and waiting + others >= tonumber(ARGV[8]) then return -5 end
  return 0
end
local code = verdict()
if code < 0 and code ~= -6 then                         -- full: drop up to 64 expired jobs at the head, then decide again
  local thrown = 0
  for _ = 1, 64 do
    local head = redis.call('LINDEX', KEYS[1], 0)
    local deadline = head and tonumber(string.match(head, '"deadline":%s*(%d+)'))
    if not deadline or deadline > now then break end
    redis.call('LPOP', KEYS[1]); waiting = waiting - 1; thrown = thrown + 1
  end
  if thrown > 0 then redis.call('HINCRBY', KEYS[7], 'expired', thrown) end
  code = verdict()
end
if code == 0 then
  local stored = redis.pcall('SET', KEYS[3], ARGV[1], 'PX', ARGV[4])
  if stored.err and not string.find(stored.err, 'OOM', 1, true) then return stored end
  if stored.err then code = -3 end                      -- the pixels took the last memory
end
if code == -6 then return {code, waiting + others} end
if code < 0 then
  redis.call('UNLINK', KEYS[4])                         -- this write frees, so the next one may run at maxmemory
  redis.call('HINCRBY', KEYS[7], 'rejected', 1)
  return {code, waiting + others}
end
redis.call('RPUSH', KEYS[1], ARGV[5] .. string.format(',"ts":%.0f,"deadline":%.0f}', now, now + tonumber(ARGV[3])))
redis.call('HINCRBY', KEYS[7], 'accepted', 1)
return {0, waiting + others + 1}
