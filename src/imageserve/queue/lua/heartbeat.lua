-- Stores the heartbeat of a worker or of a web process, and removes those that have been silent.
-- KEYS 1 workers(zset) 2 workers:info(hash), or web and web:info 3 wanted (the desired version)
--      4 preparation
-- ARGV 1 its id 2 info JSON ('' removes it) 3 silent_ms 4 guard_ms
--      5 what KEYS 4 is to hold ('' leaves it as it is)
-- Returns the desired version; '' means the one in the workers' settings.
redis.call('ZREM', KEYS[1], '')                         -- starts with a write that frees, see extend.lua
local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000)
if ARGV[2] == '' then
  redis.call('ZREM', KEYS[1], ARGV[1]); redis.call('HDEL', KEYS[2], ARGV[1])
else
  redis.call('ZADD', KEYS[1], now, ARGV[1]); redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
end
local silent = tonumber(ARGV[3])
for _, range in ipairs({{'-inf', now - silent}, {now + silent, '+inf'}}) do  -- later ones: the clock was set back
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], range[1], range[2])) do
    redis.call('ZREM', KEYS[1], id); redis.call('HDEL', KEYS[2], id)
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[4]); redis.call('PEXPIRE', KEYS[2], ARGV[4])
-- Another program's data under one of these two names must not make a heartbeat fail, nor be lost.
if ARGV[5] ~= '' then
  local kept = redis.pcall('GET', KEYS[4])
  if type(kept) ~= 'table' and kept ~= ARGV[5] then redis.call('SET', KEYS[4], ARGV[5]) end
end
local wanted = redis.pcall('GET', KEYS[3])
return type(wanted) == 'string' and wanted or ''
