-- Puts one job on the dead list.
-- KEYS 1 dead 2 stats | ARGV 1 entry 2 reason
redis.call('LTRIM', KEYS[1], 0, 999)                    -- starts with a write that frees, see extend.lua
local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('LPUSH', KEYS[1], cjson.encode({entry = ARGV[1], reason = ARGV[2], at = now}))
redis.call('LTRIM', KEYS[1], 0, 999); redis.call('PEXPIRE', KEYS[1], 86400000)
redis.call('HINCRBY', KEYS[2], 'dead', 1)
return 1
