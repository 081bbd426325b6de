-- Counts a job that was refused without enqueue.lua's word, and removes its pixels. To the autoscaler it is demand.
-- KEYS 1 p:<id> 2 stats
redis.call('UNLINK', KEYS[1])                           -- starts with a write that frees, see extend.lua
redis.call('HINCRBY', KEYS[2], 'rejected', 1)
