-- Releases jobs that were not started: to their place in the queue, before those of the same deadline, which wakes another
-- worker; redelivered jobs to retry. Also empties hold. Returns the number of released jobs.
-- KEYS 1 queue 2 hold 3 leases 4 inflight 5 attempts 6 retry 7 waiting(zset) | ARGV 1 token 2 guard_ms then ids*
local wrong = wrong_type({'list', 'list', 'zset', 'hash', 'hash', 'list', 'zset'}); if wrong then return wrong end
redis.call('HDEL', KEYS[4], '')                         -- starts with a write that frees, see extend.lua
local token, L, count = ARGV[1] .. '\n', #ARGV[1] + 1, 0
for _ = 1, 64 do if not redis.call('LMOVE', KEYS[2], KEYS[1], 'RIGHT', 'LEFT') then break end end
local function put_back(id, entry)
  local class, deadline = key_of(entry)
  local length = redis.call('LLEN', KEYS[1])
  local rank = first_rank(KEYS[1], 0, length, function(class2, deadline2)
    return not is_before(class2, deadline2, class, deadline)
  end)
  insert_at(KEYS[1], length, rank, entry)
  redis.call('ZADD', KEYS[7], number_in(entry, '"ts":'), id)
end
for i = #ARGV, 3, -1 do
  local record = redis.call('HGET', KEYS[4], ARGV[i])
  if record and string.sub(record, 1, L) == token then
    local entry = string.sub(record, L + 1)
    redis.call('ZREM', KEYS[3], ARGV[i]); redis.call('HDEL', KEYS[4], ARGV[i])
    if redis.call('HEXISTS', KEYS[5], ARGV[i]) == 1 then redis.call('LPUSH', KEYS[6], entry)
    else put_back(ARGV[i], entry) end
    count = count + 1
  end
end
redis.call('PEXPIRE', KEYS[6], ARGV[2]); redis.call('PEXPIRE', KEYS[7], ARGV[2])
return count
