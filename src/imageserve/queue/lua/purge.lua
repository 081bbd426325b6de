-- Drops up to n waiting jobs and answers them. Returns their number.
-- KEYS 1 queue 2 waiting(zset) | ARGV 1 n 2 prefix of result keys 3 prefix of pixel keys 4 code 5 message
local wrong = wrong_type({[2] = 'zset'}); if wrong then return wrong end
local entries = redis.call('LPOP', KEYS[1], ARGV[1]) or {}
for _, entry in ipairs(entries) do
  local ok, job = pcall(cjson.decode, entry)
  if ok then settle(job, ARGV[2], ARGV[3], ARGV[4], ARGV[5]) end
  if ok and type(job) == 'table' and type(job.id) == 'string' then redis.call('ZREM', KEYS[2], job.id) end
end
return #entries
