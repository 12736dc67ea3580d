-- Asks what became of a seat whose node is gone, and frees it if its time is up (after common.lua).
--
-- KEYS: 6 room.  ARGV: 1 node, 2 peer, 3 generation, 4 ms a seat that can be taken back is kept when its lease has ended
-- Returns {'free'}, {'kept', ms}, or {'taken'}: its lease stands, or two others have the seats
-- Invariant: a seat is freed only when its lease has ended and it is not kept.
local node, peer, generation, keep = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local ROOM = KEYS[6]
local now = milliseconds()
-- Nothing is known of seats while they are being asserted.
if redis.call('HGET', STATE, 'ends') ~= '0' then return { 'kept', 1000 } end
local taken = redis.call('HMGET', ROOM, '1', '2')
local others = 0
for field = 1, 2 do
  local seat = taken[field] and parse_seat(taken[field])
  if seat and seat.peer == peer and seat.generation == generation and seat.node == node then
    if holds(seat.node, seat.lease, now) then return { 'taken' } end
    local longer = kept_for(seat, keep, now)
    if longer > 0 then return { 'kept', math.ceil(longer) } end
    redis.call('HDEL', ROOM, field)
    return { 'free' }
  end
  if seat then others = others + 1 end
end
if others == 2 then return { 'taken' } end
return { 'free' }
