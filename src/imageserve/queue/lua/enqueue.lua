-- Accepts a job and puts it in its place in the order, or returns why not. Its pixels must be in p:<id> already, because
-- a worker may take it at once.
-- KEYS 1 queue  2 hold  3 id:<id>  4 p:<id>  5 retry  6 leases  7 stats  8 waiting(zset)  9 quota:<name>
-- ARGV 1 nonce, which no other process sends  2 max jobs waiting  3 timeout_ms  4 id_ttl_ms
--      5 job JSON without its closing brace
--      6 bytes of this job  7 max bytes of all jobs  8 jobs a second that the workers do (0: unknown)
--      9 ms that a job takes besides  10 id  11 prefix of pixel keys  12 guard_ms  13 us per job of the quota
--      14 its burst  15 ms that a count is kept at most
--      16 jobs for which the quota must have room now, this one and those that make no sense without it.
-- A job without a quota comes without KEYS 9 and without ARGV 13 to 16.
-- Returns {code, backlog, ms}: 0 accepted, 1 own retry, -1 full, -2 id collision, -3 no memory, -4 over the
--      byte limit, -5 cannot be done in time, or makes others late (the backlog is then what is ahead of it),
--      -6 pixels missing (their SET was refused, or they were deleted since; the caller knows which, and counts the
--      first with refuse.lua), -7 over its quota, which is asked last and counts what is accepted, nothing else.
--      ms: until its quota lets the next job through, or has room for all those of ARGV 16; a lower bound, 0 for at once
local interval_us, burst = tonumber(ARGV[13] or 0), tonumber(ARGV[14] or 0)
local wrong = wrong_type({[7] = 'hash', [9] = burst > 0 and 'string' or nil}); if wrong then return wrong end
local have = redis.call('GET', KEYS[3])
if have then if have == ARGV[1] then return {1, 0, 0} else return {-2, 0, 0} end end
local t = redis.call('TIME'); local now_us = t[1] * 1000000 + t[2]; local now = math.floor(now_us / 1000)
local length, hold = redis.call('LLEN', KEYS[1]), redis.call('LLEN', KEYS[2])
local others = redis.call('LLEN', KEYS[5]) + redis.call('ZCARD', KEYS[6])
local known = redis.call('ZCARD', KEYS[8])
local entry = ARGV[5] .. string.format(',"ts":%.0f,"deadline":%.0f}', now, now + tonumber(ARGV[3]))
local class, deadline = key_of(entry)
local per_s, besides = tonumber(ARGV[8]), tonumber(ARGV[9])
local function is_past(class2, deadline2) return is_before(class, deadline, class2, deadline2) end
local rank = length
if length > 0 and is_past(key_of(redis.call('LINDEX', KEYS[1], -1))) then
  local near = math.max(0, length - 8)                  -- most that come late to the end are out of order by a few
  if near > 0 and is_past(key_of(redis.call('LINDEX', KEYS[1], near))) then
    rank = first_rank(KEYS[1], 0, near, is_past)
  else
    rank = first_rank(KEYS[1], near, length - 1, is_past)
  end
end
local function ends(ahead) return now + 1000 * (ahead + 1) / per_s + besides end
local function ahead_of_it()
  local all = hold + others + rank
  if class == 0 then return all end                     -- a tenth of what is taken are background jobs, while they wait
  return math.min(all, hold + others + 10 * (rank - boundary_of(KEYS[1], length)) + 9)
end
-- Tells whether an interactive job behind it would no longer end in time. Of more than 16 some are looked at.
local function delays_others()
  local behind = class == 0 and rank < length and boundary_of(KEYS[1], length) - rank or 0
  local looks = math.min(16, behind)
  if behind > 1 then                                    -- where the first one has time for all, so have the others
    local _, first = key_of(redis.call('LINDEX', KEYS[1], rank))
    if ends(hold + others + rank + behind) <= first then return false end
  end
  for i = 0, looks - 1 do
    local place = rank + (looks > 1 and math.floor(i * (behind - 1) / (looks - 1)) or 0)
    local _, theirs = key_of(redis.call('LINDEX', KEYS[1], place))
    local ahead = hold + others + place
    if ends(ahead) <= theirs and theirs < ends(ahead + 1) then return true end
  end
  return false
end
local function verdict()
  local backlog = length + hold + others
  if redis.call('EXISTS', KEYS[4]) == 0 then return -6, backlog end
  if length + hold >= tonumber(ARGV[2]) then return -1, backlog end
  if (backlog + 1) * tonumber(ARGV[6]) > tonumber(ARGV[7]) then return -4, backlog end
  if per_s > 0 and backlog > 0 then
    local ahead = ahead_of_it()
    if (ahead > 0 and ends(ahead) > deadline) or delays_others() then return -5, ahead end
  end
  return 0, backlog
end
local code, backlog = verdict()
if code < 0 and code ~= -6 then                         -- full: drop up to 64 expired jobs at the head, then decide again
  local thrown = 0
  for _ = 1, 64 do
    local head = redis.call('LINDEX', KEYS[1], 0)
    local passed = head and number_in(head, '"deadline":') or 0
    if passed == 0 or passed > now then break end
    redis.call('LPOP', KEYS[1]); thrown = thrown + 1
  end
  if thrown > 0 then
    redis.call('HINCRBY', KEYS[7], 'expired', thrown)
    length, rank = length - thrown, math.max(0, rank - thrown)
    code, backlog = verdict()
  end
end
-- The quota. used_us: what of its burst is used, should this job be accepted. wait_ms: until this job may come or, if it is
-- accepted, the next one. No more than a burst is kept: its rate may have been a slower one, or the clock gone back.
local used_us, wait_ms, is_more, keep = 0, 0, false, nil
if code == 0 and burst > 0 then
  local kept_us, all_us = (tonumber(redis.call('GET', KEYS[9]) or 0) or 0) - now_us, burst * interval_us
  is_more = kept_us > all_us
  used_us = math.min(math.max(kept_us, 0), all_us) + interval_us
  local wait_us = used_us + (tonumber(ARGV[16]) - 1) * interval_us - all_us
  if wait_us > 0 then code = -7 else wait_us = used_us + interval_us - all_us end
  wait_ms = math.floor(math.max(0, wait_us) / 1000)
  keep = function(us)
    local ttl_ms = math.min(tonumber(ARGV[15]), math.ceil(us / 1000))
    redis.call('SET', KEYS[9], string.format('%.0f', now_us + us), 'PX', string.format('%.0f', ttl_ms))
  end
end
if code == 0 then
  local stored = redis.pcall('SET', KEYS[3], ARGV[1], 'PX', ARGV[4])
  if stored.err and not string.find(stored.err, 'OOM', 1, true) then return stored end
  if stored.err then code = -3 end                      -- the pixels took the last memory
end
if code == -6 then return {code, backlog, 0} end
if code < 0 then
  redis.call('UNLINK', KEYS[4])                         -- this write frees, so the next one may run at maxmemory
  if code == -7 then                                    -- not counted as demand: no worker more is needed for it
    if is_more then keep(used_us - interval_us) end
    return {code, backlog, wait_ms}
  end
  redis.call('HINCRBY', KEYS[7], 'rejected', 1)
  return {code, backlog, 0}
end
if burst > 0 then keep(used_us) end
insert_at(KEYS[1], length, rank, entry)
redis.call('HINCRBY', KEYS[7], 'accepted', 1)
redis.call('ZADD', KEYS[8], now, ARGV[10])
if known == 0 then redis.call('PEXPIRE', KEYS[8], ARGV[12]) end
if known > length + hold then                           -- workers of 0.1.0 take jobs and do not remove them from waiting
  for _, first in ipairs({0, now % known}) do           -- the oldest, and any: some may wait long before many that do not
    for _, id in ipairs(redis.call('ZRANGE', KEYS[8], first, first + 1)) do
      if redis.call('EXISTS', ARGV[11] .. id) == 0 or redis.call('ZMSCORE', KEYS[6], id)[1] then
        redis.call('ZREM', KEYS[8], id)
      end
    end
  end
end
return {0, backlog + 1, wait_ms}
