-- Reads the state of a queue at one instant, for sizing, admission and status pages. Writes nothing.
-- KEYS 1 queue 2 hold 3 retry 4 leases 5 stats 6 workers 7 workers:info 8 dead 9 web 10 web:info 11 preparation
-- Returns {now, queue, hold, retry, leases, dead, head entry, stats, workers with scores, info,
-- web processes with scores, info, preparation}
local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000)
local kept = redis.pcall('GET', KEYS[11])                -- another program's data must not hide the queue
local head = redis.call('LINDEX', KEYS[1], 0) or ''
return {now, redis.call('LLEN', KEYS[1]), redis.call('LLEN', KEYS[2]), redis.call('LLEN', KEYS[3]),
  redis.call('ZCARD', KEYS[4]), redis.call('LLEN', KEYS[8]), head, redis.call('HGETALL', KEYS[5]),
  redis.call('ZRANGE', KEYS[6], 0, -1, 'WITHSCORES'), redis.call('HGETALL', KEYS[7]),
  redis.call('ZRANGE', KEYS[9], 0, -1, 'WITHSCORES'), redis.call('HGETALL', KEYS[10]),
  type(kept) == 'string' and #kept <= 1024 and kept or ''}
