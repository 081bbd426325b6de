-- Acknowledges jobs that are still leased to this claim, stores and publishes their results, and puts those with a
-- reason on the dead list.
-- KEYS 1 leases 2 inflight 3 attempts 4 stats 5 dead then (r:<id>, p:<id>)*
-- ARGV 1 token 2 counters, then (counter, what it adds)* of the batch, then (id, channel, body, ttl_ms, counter, reason,
--      queue_us, model_us)*; a body contains the token
-- Returns 1/0 per job; 0: the claim has lost the lease, and nothing was changed. 1 where this very body is stored
-- already, too: the same call was sent again, as its reply was lost.
-- The acknowledgement comes first, because it frees memory: see extend.lua.
local token, L, m, jobs = ARGV[1] .. '\n', #ARGV[1] + 1, (#KEYS - 5) / 2, 2 + 2 * tonumber(ARGV[2])
local function of(i, field) return ARGV[jobs + 8 * (i - 1) + field] end
if m < 1 then return {} end
local wrong = wrong_type({'zset', 'hash', 'hash', 'hash'}); if wrong then return wrong end
local ids, result, own, entries, pixels, counts, items, dead = {}, {}, {}, {}, {}, {}, 0, 0
local function add(counter, amount) counts[counter] = (counts[counter] or 0) + tonumber(amount) end
for i = 1, m do ids[i] = of(i, 1) end
local records = redis.call('HMGET', KEYS[2], unpack(ids))
for i = 1, m do
  if records[i] and string.sub(records[i], 1, L) == token then
    result[i] = 1; own[#own + 1] = ids[i]; entries[i] = string.sub(records[i], L + 1); pixels[#pixels + 1] = KEYS[5 + 2 * i]
    local counter = of(i, 5)
    add(counter, 1)
    if counter ~= 'expired' then items = items + 1 end
    if counter == 'completed' then add('queue_us', of(i, 7)); add('model_us', of(i, 8))
    else add('failed_us', of(i, 7) + of(i, 8)) end
  else
    result[i] = redis.pcall('GET', KEYS[4 + 2 * i]) == of(i, 3) and 1 or 0
  end
end
if #own == 0 then return result end
redis.call('HDEL', KEYS[2], unpack(own)); redis.call('ZREM', KEYS[1], unpack(own))
redis.call('HDEL', KEYS[3], unpack(own)); redis.call('UNLINK', unpack(pixels))
local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000)
for i, entry in pairs(entries) do
  local channel, body, reason = of(i, 2), of(i, 3), of(i, 6)
  if redis.call('SET', KEYS[4 + 2 * i], body, 'NX', 'PX', of(i, 4)) and channel ~= '' then
    redis.call('PUBLISH', channel, body)
  end
  if reason ~= '' then bury(KEYS[5], entry, reason, now); dead = dead + 1 end
end
if dead > 0 then counts.dead = dead end
counts.items = items
for i = 3, jobs, 2 do add(ARGV[i], ARGV[i + 1]) end
for counter, count in pairs(counts) do redis.call('HINCRBY', KEYS[4], counter, string.format('%.0f', count)) end
if now > (tonumber(redis.call('HGET', KEYS[4], 'last_ms') or 0) or 0) then
  redis.call('HSET', KEYS[4], 'last_ms', string.format('%.0f', now))
end
return result
