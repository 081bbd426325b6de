-- Drops up to n waiting jobs and answers them. Returns their number.
-- KEYS 1 queue | ARGV 1 n 2 prefix of result keys 3 prefix of pixel keys 4 code 5 message
local entries = redis.call('LPOP', KEYS[1], ARGV[1]) or {}
for _, entry in ipairs(entries) do
  local ok, job = pcall(cjson.decode, entry)
  if ok then settle(job, ARGV[2], ARGV[3], ARGV[4], ARGV[5]) end
end
return #entries
