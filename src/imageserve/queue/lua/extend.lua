-- Renews the leases that this claim still holds. Returns their number.
-- KEYS 1 leases 2 inflight | ARGV 1 token 2 lease_ms 3 guard_ms then ids*
-- At maxmemory Redis refuses a script whose first write may allocate (deny-oom), so this one starts with a write that frees.
redis.call('HDEL', KEYS[2], '')
local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000)
local token, L, count = ARGV[1] .. '\n', #ARGV[1] + 1, 0
for i = 4, #ARGV do
  local record = redis.call('HGET', KEYS[2], ARGV[i])
  if record and string.sub(record, 1, L) == token then
    count = count + 1; redis.call('ZADD', KEYS[1], 'XX', now + tonumber(ARGV[2]), ARGV[i])
  end
end
if count > 0 then redis.call('PEXPIRE', KEYS[1], ARGV[3]); redis.call('PEXPIRE', KEYS[2], ARGV[3]) end
return count
