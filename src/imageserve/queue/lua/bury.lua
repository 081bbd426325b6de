-- Part of other scripts: puts a job on the dead list. Where another program has its name the job is not kept there: it
-- must still be answered, and so must its neighbours. snapshot.lua names that key.
local function bury(list, entry, reason, now)
  local item = cjson.encode({entry = entry, reason = reason, at = now})
  if type(redis.pcall('LPUSH', list, item)) == 'number' then
    redis.call('LTRIM', list, 0, 999); redis.call('PEXPIRE', list, 86400000)
  end
end
