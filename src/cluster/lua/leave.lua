-- A peer gives up its seat, and no other (after common.lua).
--
-- KEYS: 6 room.  ARGV: 1 node, 2 peer, 3 generation, 4 the room's name, 5 what the names of keys begin with
-- Returns {'left'[, peer, generation, node]} with who stays, or {'none'}: it held no seat there
-- Invariant: a seat is freed only for the peer, generation and node that hold it, however late this comes.
local node, peer, generation = ARGV[1], ARGV[2], ARGV[3]
local ROOM = KEYS[6]
local taken = redis.call('HMGET', ROOM, '1', '2')
for field = 1, 2 do
  local seat = taken[field] and parse_seat(taken[field])
  if seat and seat.peer == peer and seat.generation == generation and seat.node == node then
    local now = milliseconds()
    redis.call('HDEL', ROOM, field)
    redis.call('DEL', mail_of(ARGV[5], ARGV[4], field))
    -- One lease can hold both seats of a room.
    local other = taken[3 - field] and parse_seat(taken[3 - field])
    if not (other and other.node == node and other.lease == seat.lease) then
      redis.call('SREM', ARGV[5] .. 'seats:' .. node .. ':' .. seat.lease, ARGV[4])
    end
    if other and holds(other.node, other.lease, now) then
      return { 'left', other.peer, other.generation, other.node }
    end
    return { 'left' }
  end
end
return { 'none' }
