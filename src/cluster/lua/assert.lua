-- A node states which seats it holds, after another epoch began (after common.lua).
--
-- ARGV: 1 node, 2 lease, 3 token, 4 what the names of keys begin with, then for each seat: the room's name, peer,
--   generation, role
-- Returns {'asserted', n…}: the numbers, from 0, of those seats that are taken by two others; or {'lost'}
-- Invariant: seats that were asserted in this epoch are never overwritten; what is left of earlier epochs yields.
local node, lease, token, prefix = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local entry = entry_of(node)
if not entry or entry.lease ~= lease or entry.token ~= token or redis.call('HGET', STATE, 'ends') == '0' then
  return { 'lost' }
end
local answer = { 'asserted' }
for i = 5, #ARGV, 4 do
  local name, peer, generation, role = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local room = prefix .. 'room:' .. name
  local taken = redis.call('HMGET', room, '1', '2')
  local own, free
  for field = 1, 2 do
    local seat = taken[field] and parse_seat(taken[field])
    if seat and seat.peer == peer and seat.generation == generation and seat.node == node then
      own = field
    else
      local holder = seat and entry_of(seat.node)
      if not (holder and holder.lease == seat.lease) then free = free or field end
    end
  end
  local field = own or free
  if field then
    redis.call('HSET', room, field, table.concat({ peer, generation, node, lease, role }, ' '))
    redis.call('SADD', prefix .. 'seats:' .. node .. ':' .. lease, name)
  else
    answer[#answer + 1] = (i - 5) / 4
  end
end
return answer
