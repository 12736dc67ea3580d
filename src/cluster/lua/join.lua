-- A peer asks for a seat (after common.lua).
--
-- KEYS: 6 room, 7 the rooms of the asking node's lease.  ARGV: 1 node, 2 lease, 3 token, 4 peer, 5 generation, 6 the
--   room's name, 7 what the names of keys begin with
-- Returns {'created', order}, {'joined', order, peer, generation, node}, {'full'}, {'seated', role[, peer, generation,
--   node]}, where order is higher for every later seat of the partition; or
--   {'lost'}: the node holds no such lease over this connection, {'recovering'}: it cannot be told yet
-- Invariant: at most two seats whose lease stands, whatever else was in the room.
local node, lease, token, peer, generation = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local now = milliseconds()
local entry = entry_of(node)
if not entry or entry.lease ~= lease or entry.token ~= token then return { 'lost' } end
if redis.call('HGET', STATE, 'ends') ~= '0' then return { 'recovering' } end
if not holds(node, lease, now) then return { 'lost' } end

local ROOM, SEATS = KEYS[6], KEYS[7]
local taken = redis.call('HMGET', ROOM, '1', '2')
local other, free
for field = 1, 2 do
  local seat = taken[field] and parse_seat(taken[field])
  if seat and seat.peer == peer and seat.generation == generation and seat.node == node and seat.lease == lease then
    local role, third = seat.role, taken[3 - field]
    third = third and parse_seat(third)
    if third and holds(third.node, third.lease, now) then
      return { 'seated', role, third.peer, third.generation, third.node }
    end
    return { 'seated', role }
  elseif seat and holds(seat.node, seat.lease, now) then
    if other then return { 'full' } end
    other = seat
  else
    if seat then redis.call('SREM', ARGV[7] .. 'seats:' .. seat.node .. ':' .. seat.lease, ARGV[6]) end
    free = free or field
  end
end
local role = 'created'
if other then role = 'joined' end
redis.call('HSET', ROOM, free, table.concat({ peer, generation, node, lease, role }, ' '))
redis.call('SADD', SEATS, ARGV[6])
-- What is left of a seat that no longer counts does not stay beside the new one.
if not other and taken[3 - free] then redis.call('HDEL', ROOM, 3 - free) end
local order = redis.call('HINCRBY', STATE, 'joins', 1)
if other then return { 'joined', order, other.peer, other.generation, other.node } end
return { 'created', order }
