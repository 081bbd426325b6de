-- Says that a worker lives, and forgets those that have been silent.
-- KEYS 1 workers(zset) 2 workers:info(hash) 3 wanted
-- ARGV 1 worker id 2 info JSON ('' to leave) 3 silent_ms 4 guard_ms
-- returns what the workers are told to serve, '' for what they are set up with
redis.call('ZREM', KEYS[1], '')                         -- a first write that cannot grow memory, see extend.lua
local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000)
if ARGV[2] == '' then
  redis.call('ZREM', KEYS[1], ARGV[1]); redis.call('HDEL', KEYS[2], ARGV[1])
else
  redis.call('ZADD', KEYS[1], now, ARGV[1]); redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
end
local silent = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[3]))
for _, id in ipairs(silent) do redis.call('ZREM', KEYS[1], id); redis.call('HDEL', KEYS[2], id) end
redis.call('PEXPIRE', KEYS[1], ARGV[4]); redis.call('PEXPIRE', KEYS[2], ARGV[4])
local wanted = redis.pcall('GET', KEYS[3])               -- of another type: a heartbeat must not fail for it
return type(wanted) == 'string' and wanted or ''
