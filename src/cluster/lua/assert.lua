-- A node states which seats it holds, after another epoch began (after common.lua).
--
-- ARGV: 1 node, 2 lease, 3 token, 4 what the names of keys begin with, then for each seat: the room's name, peer,
--   generation, role, key, order
-- Returns {'asserted', n…}: the numbers, from 0, of those seats that are taken by two others, or by who took them back later;
--   or {'lost'}
-- Invariant: seats that were asserted in this epoch are never overwritten but by who took them back; what is left of earlier
-- epochs yields.
local node, lease, token, prefix = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local entry = entry_of(node)
if not entry or entry.lease ~= lease or entry.token ~= token or redis.call('HGET', STATE, 'ends') == '0' then
  return { 'lost' }
end
local answer = { 'asserted' }
for i = 5, #ARGV, 6 do
  local name, peer, generation, role, key, order = unpack(ARGV, i, i + 5)
  local room = prefix .. 'room:' .. name
  local taken = redis.call('HMGET', room, '1', '2')
  local own, free, later
  for field = 1, 2 do
    local seat = taken[field] and parse_seat(taken[field])
    if seat and key ~= '-' and seat.key == key then
      own, later = field, seat.order > tonumber(order)
    elseif seat and seat.peer == peer and seat.generation == generation and seat.node == node then
      own = own or field
    else
      local holder = seat and entry_of(seat.node)
      if not (holder and holder.lease == seat.lease) then free = free or field end
    end
  end
  local field = own or free
  if field and not later then
    redis.call('HSET', room, field, table.concat({ peer, generation, node, lease, role, key, order }, ' '))
    redis.call('SADD', prefix .. 'seats:' .. node .. ':' .. lease, name)
  else
    answer[#answer + 1] = (i - 5) / 6
  end
end
return answer
