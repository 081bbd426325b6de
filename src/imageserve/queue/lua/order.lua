-- Part of other scripts: the order of a list of jobs, by class (0 interactive, 1 background) and then by deadline. In an
-- entry of another program either may be missing: that costs order, never an error. The same in a list that is not in
-- order, because web processes of 0.1.0 push at its end: a wrong place is found, and no job is lost.
local function number_in(entry, name)
  local _, last = string.find(entry, name, 1, true)
  return last and tonumber(string.match(entry, '^%s*(%d+)', last + 1)) or 0
end
local function key_of(entry)
  local _, last = string.find(entry, '"priority":', 1, true)
  local background = last and string.find(entry, '^%s*"background"', last + 1)
  local deadline = string.match(entry, '"deadline":(%d+)}$', -40)  -- where ENQUEUE writes it
  return background and 1 or 0, deadline and tonumber(deadline) or number_in(entry, '"deadline":')
end
local function is_before(class, deadline, class2, deadline2)
  return class < class2 or (class == class2 and deadline < deadline2)
end
-- Returns the first rank from low up to below high whose key is past the place that is looked for, else high.
local function first_rank(list, low, high, is_past)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if is_past(key_of(redis.call('LINDEX', list, middle))) then high = middle else low = middle + 1 end
  end
  return low
end
-- Returns the rank of the first background job; the length where there is none.
local function boundary_of(list, length)
  local tail = length > 0 and redis.call('LINDEX', list, -1)
  if not tail or key_of(tail) == 0 then return length end
  return first_rank(list, 0, length - 1, function(class) return class == 1 end)
end
