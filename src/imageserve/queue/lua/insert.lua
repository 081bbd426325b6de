-- Part of other scripts: puts an entry into a list in order, at a rank that order.lua found.
local function insert_at(list, length, rank, entry)
  if rank >= length then redis.call('RPUSH', list, entry)
  elseif rank == 0 then redis.call('LPUSH', list, entry)
  else redis.call('LINSERT', list, 'BEFORE', redis.call('LINDEX', list, rank), entry) end
end
