-- Reads the state of a queue at one instant, for sizing, admission and status pages. Writes nothing.
-- KEYS 1 queue 2 hold 3 retry 4 leases 5 stats 6 workers 7 workers:info 8 dead 9 web 10 web:info 11 preparation
--      12 waiting | ARGV 1 prefix of pixel keys
-- Returns {now, queue, hold, retry, leases, dead, when the oldest job was queued or 0, stats, workers with scores, info,
-- web processes with scores, info, preparation, background jobs, (rank, class, deadline)* of up to 16 jobs}
local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000)
local kept = redis.pcall('GET', KEYS[11])                -- another program's data must not hide the queue
local length = redis.call('LLEN', KEYS[1])
-- Jobs of web processes of 0.1.0 are not in waiting: of those the head is the oldest. Workers of 0.1.0 leave the jobs there
-- that they take, or that expire. A user with the rights of an older release may not ask.
local function oldest()
  local found = number_in(redis.call('LINDEX', KEYS[1], 0) or '', '"ts":')
  local lowest = redis.pcall('ZRANGE', KEYS[12], 0, 31, 'WITHSCORES')
  for i = 1, #lowest, 2 do
    local ts = tonumber(lowest[i + 1])
    if found > 0 and ts >= found then break end
    local is_leased = redis.pcall('ZMSCORE', KEYS[4], lowest[i])[1]
    if not is_leased and redis.pcall('EXISTS', ARGV[1] .. lowest[i]) ~= 0 then return ts end
  end
  return found
end
local sketch, points = {}, math.min(16, length)
for i = 0, points - 1 do
  local rank = points > 1 and math.floor(i * (length - 1) / (points - 1)) or 0
  local class, deadline = key_of(redis.call('LINDEX', KEYS[1], rank))
  sketch[3 * i + 1], sketch[3 * i + 2], sketch[3 * i + 3] = rank, class, math.min(deadline, 2 ^ 53)
end
return {now, length, redis.call('LLEN', KEYS[2]), redis.call('LLEN', KEYS[3]),
  redis.call('ZCARD', KEYS[4]), redis.call('LLEN', KEYS[8]), math.min(oldest(), 2 ^ 53), redis.call('HGETALL', KEYS[5]),
  redis.call('ZRANGE', KEYS[6], 0, -1, 'WITHSCORES'), redis.call('HGETALL', KEYS[7]),
  redis.call('ZRANGE', KEYS[9], 0, -1, 'WITHSCORES'), redis.call('HGETALL', KEYS[10]),
  type(kept) == 'string' and #kept <= 1024 and kept or '', length - boundary_of(KEYS[1], length), sketch}
