-- Releases jobs that were not started: to the head of the queue, which wakes another worker; redelivered jobs to
-- retry. Also empties hold. Returns the number of released jobs.
-- KEYS 1 queue 2 hold 3 leases 4 inflight 5 attempts 6 retry | ARGV 1 token 2 guard_ms then ids*
local wrong = wrong_type({'list', 'list', 'zset', 'hash', 'hash', 'list'}); if wrong then return wrong end
redis.call('HDEL', KEYS[4], '')                         -- starts with a write that frees, see extend.lua
local token, L, count = ARGV[1] .. '\n', #ARGV[1] + 1, 0
for _ = 1, 64 do if not redis.call('LMOVE', KEYS[2], KEYS[1], 'RIGHT', 'LEFT') then break end end
for i = #ARGV, 3, -1 do
  local record = redis.call('HGET', KEYS[4], ARGV[i])
  if record and string.sub(record, 1, L) == token then
    redis.call('ZREM', KEYS[3], ARGV[i]); redis.call('HDEL', KEYS[4], ARGV[i])
    local back = redis.call('HEXISTS', KEYS[5], ARGV[i]) == 1 and KEYS[6] or KEYS[1]
    redis.call('LPUSH', back, string.sub(record, L + 1)); count = count + 1
  end
end
redis.call('PEXPIRE', KEYS[6], ARGV[2])
return count
