-- Part of other scripts: says whether another program's data has the name of a key. They ask before their first write:
-- Lua rolls nothing back, so a command that failed in the middle would lose jobs. kinds: position in KEYS -> type.
local function wrong_type(kinds)
  for i, kind in pairs(kinds) do
    local found = redis.call('TYPE', KEYS[i]).ok
    if found ~= kind and found ~= 'none' then return redis.error_reply('WRONGTYPE ' .. KEYS[i] .. ' is a ' .. found) end
  end
end
