-- Keeps a message for a peer that is away, or for whoever takes the second seat (after common.lua).
--
-- KEYS: 6 room.  ARGV: 1 node, 2 lease, 3 token, 4 peer, 5 generation, 6 the room's name, 7 what the names of keys begin with,
--   8 ms a seat that can be taken back is kept when its lease has ended, 9, 10, 11 peer, generation and node of the one that it is
--   for (-: whoever comes), 12, 13 the message's number: the order of the sender's seat, and the count from there, 14 what it says,
--   15 messages at most, 16 bytes at most, 17 ms until what is kept of this side is forgotten, 18 how many are kept of it
-- Returns {'kept'}; {'full'}; {'present'}: somebody sits there by another connection, or sits there at all; {'gone'}: nobody does, or
--   nobody who can come back, or the sender does not; {'forgotten'}: fewer are kept than should be; {'lost'} and {'recovering'} as a
--   join
-- Invariant: what is kept of one side is for one and the same seat, or for whoever comes; and bounded.
local node, lease, token, peer, generation = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local now = milliseconds()
local entry = entry_of(node)
if not entry or entry.lease ~= lease or entry.token ~= token then return { 'lost' } end
if redis.call('HGET', STATE, 'ends') ~= '0' then return { 'recovering' } end
if not holds(node, lease, now) then return { 'lost' } end

local taken = redis.call('HMGET', KEYS[6], '1', '2')
for field = 1, 2 do
  local seat = taken[field] and parse_seat(taken[field])
  if seat and seat.peer == peer and seat.generation == generation and seat.node == node then
    local other = taken[3 - field] and parse_seat(taken[3 - field])
    if other and not holds(other.node, other.lease, now) and kept_for(other, tonumber(ARGV[8]), now) <= 0 then other = nil end
    local to = '-'
    if ARGV[9] == '-' then
      if other then return { 'present' } end
    else
      if not other then return { 'gone' } end
      if other.peer ~= ARGV[9] or other.generation ~= ARGV[10] or other.node ~= ARGV[11] then return { 'present' } end
      if other.key == '-' then return { 'gone' } end
      to = other.key
    end
    local mail = mail_of(ARGV[7], ARGV[6], field)
    local first = redis.call('LINDEX', mail, 0)
    first = first and parse_mail(first)
    if first and first.to ~= to then
      redis.call('DEL', mail)
      first = nil
    end
    -- What is kept for one peer is kept as long as its seat.
    while first and to == '-' and now - first.ms > tonumber(ARGV[17]) do
      redis.call('LPOP', mail)
      first = redis.call('LINDEX', mail, 0)
      first = first and parse_mail(first)
    end
    local count, bytes, before = redis.call('LLEN', mail), 0, 0
    if count < tonumber(ARGV[18]) then return { 'forgotten' } end
    if count >= tonumber(ARGV[15]) then return { 'full' } end
    if first then
      bytes, before = parse_mail(redis.call('LINDEX', mail, -1)).bytes, first.bytes - #first.body
    end
    bytes = bytes + #ARGV[14]
    if bytes - before > tonumber(ARGV[16]) then return { 'full' } end
    local head = { to, string.format('%.0f', now), string.format('%.0f', bytes), ARGV[12], ARGV[13] }
    redis.call('RPUSH', mail, table.concat(head, ' ') .. ' ' .. ARGV[14])
    redis.call('PEXPIRE', mail, ARGV[17])
    return { 'kept' }
  end
end
return { 'gone' }
