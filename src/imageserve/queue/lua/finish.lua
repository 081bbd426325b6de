-- Acknowledges jobs that are still leased to this claim, then stores and publishes their results.
-- KEYS 1 leases 2 inflight 3 attempts 4 stats then (r:<id>, p:<id>)*
-- ARGV 1 token 2 batches 3 busy_ms then (id, channel, body, ttl_ms, counter)*
-- Returns 1/0 per job; 0: the claim has lost the lease, and nothing was changed.
-- The acknowledgement comes first, because it frees memory: see extend.lua.
local token, L, m = ARGV[1] .. '\n', #ARGV[1] + 1, (#KEYS - 4) / 2
if m < 1 then return {} end
local ids, result, own, pixels, counts, items = {}, {}, {}, {}, {}, 0
for i = 1, m do ids[i] = ARGV[5 * i - 1] end
local records = redis.call('HMGET', KEYS[2], unpack(ids))
for i = 1, m do
  if records[i] and string.sub(records[i], 1, L) == token then
    result[i] = 1; own[#own + 1] = ids[i]; pixels[#pixels + 1] = KEYS[4 + 2 * i]
    local counter = ARGV[5 * i + 3]
    counts[counter] = (counts[counter] or 0) + 1
    if counter ~= 'expired' then items = items + 1 end
  else result[i] = 0 end
end
if #own == 0 then return result end
redis.call('HDEL', KEYS[2], unpack(own)); redis.call('ZREM', KEYS[1], unpack(own))
redis.call('HDEL', KEYS[3], unpack(own)); redis.call('UNLINK', unpack(pixels))
for i = 1, m do
  local channel, body = ARGV[5 * i], ARGV[5 * i + 1]
  if result[i] == 1 and redis.call('SET', KEYS[3 + 2 * i], body, 'NX', 'PX', ARGV[5 * i + 2]) and channel ~= '' then
    redis.call('PUBLISH', channel, body)
  end
end
for counter, count in pairs(counts) do redis.call('HINCRBY', KEYS[4], counter, count) end
redis.call('HINCRBY', KEYS[4], 'items', items)
redis.call('HINCRBY', KEYS[4], 'batches', ARGV[2]); redis.call('HINCRBY', KEYS[4], 'busy_ms', ARGV[3])
return result
