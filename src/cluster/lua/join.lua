-- A peer asks for a seat (after common.lua).
--
-- KEYS: 6 room, 7 the rooms of the asking node's lease.  ARGV: 1 node, 2 lease, 3 token, 4 peer, 5 generation, 6 the
--   room's name, 7 what the names of keys begin with, 8 the key of a new seat (-: none), 9 the key of the seat that is asked
--   back (-: none), 10 ms a seat that can be taken back is kept when its lease has ended, 11 ms until what is kept for whoever comes
--   is too old
-- Returns {'created', order}, {'joined', order, away, peer, generation, node}, {'full'}, {'seated', role[, away, peer, generation,
--   node]}, {'resumed', order, role, peer, generation, node[, away, peer, generation, node]} (who had the seat, and who else
--   is there), where order is higher for every later seat of the partition, and away is 1 if that occupant's lease has ended; or
--   {'lost'}: the node holds no such lease over this connection, {'recovering'}: it cannot be told yet. Where something was kept
--   for the new seat: {'mail', seat, said, message…, answer}, with the number of each message and the answer as above.
-- Invariant: at most two seats that count, whatever else was in the room; a seat changes hands only for who knows its key.
local node, lease, token, peer, generation = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local key, resume, keep = ARGV[8], ARGV[9], tonumber(ARGV[10])
local now = milliseconds()
local entry = entry_of(node)
if not entry or entry.lease ~= lease or entry.token ~= token then return { 'lost' } end
if redis.call('HGET', STATE, 'ends') ~= '0' then return { 'recovering' } end
if not holds(node, lease, now) then return { 'lost' } end

local ROOM, SEATS = KEYS[6], KEYS[7]
-- What is in the room and counts: by field, with whether its node is gone.
local seats, own, asked, free, count = {}, nil, nil, nil, 0
local taken = redis.call('HMGET', ROOM, '1', '2')
for field = 1, 2 do
  local seat = taken[field] and parse_seat(taken[field])
  if seat and holds(seat.node, seat.lease, now) then
    seat.away = 0
  elseif seat and kept_for(seat, keep, now) > 0 then
    seat.away = 1
  else
    if seat then
      redis.call('SREM', ARGV[7] .. 'seats:' .. seat.node .. ':' .. seat.lease, ARGV[6])
      redis.call('HDEL', ROOM, field)
    end
    seat, free = nil, free or field
  end
  if seat then
    seats[field], count = seat, count + 1
    if seat.peer == peer and seat.generation == generation and seat.node == node and seat.lease == lease then own = field end
    if resume ~= '-' and seat.key == resume then asked = field end
  end
end
local function with(answer, seat)
  if not seat then return answer end
  for _, word in ipairs({ seat.away, seat.peer, seat.generation, seat.node }) do answer[#answer + 1] = word end
  return answer
end

-- What the other seat said that is for this one; it is nobody else's. What is left of who had this one before is nobody's.
local function with_mail(answer, field, key, fresh)
  local own, others = mail_of(ARGV[7], ARGV[6], field), mail_of(ARGV[7], ARGV[6], 3 - field)
  local kept = redis.call('LRANGE', others, 0, -1)
  if fresh or #kept > 0 then
    if fresh then redis.call('DEL', own, others) else redis.call('DEL', others) end
  end
  local mail = { 'mail' }
  for _, text in ipairs(kept) do
    local one = parse_mail(text)
    if one.to == key and (key ~= '-' or now - one.ms <= tonumber(ARGV[11])) then
      for _, word in ipairs({ one.seat, one.said, one.body }) do mail[#mail + 1] = word end
    end
  end
  if #mail == 1 then return answer end
  mail[#mail + 1] = answer
  return mail
end

if own then return with({ 'seated', seats[own].role }, seats[3 - own]) end
if count == 2 and not asked then return { 'full' } end
local order = redis.call('HINCRBY', STATE, 'joins', 1)
local seat = { peer = peer, generation = generation, node = node, lease = lease, role = 'created', key = key, order = order }
if asked then
  local before, other = seats[asked], seats[3 - asked]
  seat.role, seat.key = before.role, before.key
  redis.call('HSET', ROOM, asked, seat_text(seat))
  redis.call('SADD', SEATS, ARGV[6])
  local same = before.node == node and before.lease == lease
  if not same and not (other and other.node == before.node and other.lease == before.lease) then
    redis.call('SREM', ARGV[7] .. 'seats:' .. before.node .. ':' .. before.lease, ARGV[6])
  end
  return with_mail(with({ 'resumed', order, seat.role, before.peer, before.generation, before.node }, other), asked, resume, false)
end
local other = seats[1] or seats[2]
if other then seat.role = 'joined' end
redis.call('HSET', ROOM, free, seat_text(seat))
redis.call('SADD', SEATS, ARGV[6])
if other then return with_mail(with({ 'joined', order }, other), free, '-', true) end
return with_mail({ 'created', order }, free, '-', true)
