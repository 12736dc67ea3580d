-- Who sits in a room, for whoever operates the nodes (after common.lua).
--
-- KEYS: 6 room.  ARGV: 1 ms a seat that can be taken back is kept when its lease has ended
-- Returns {'seats'[, away, peer, generation, node, role]…} with the seats that count, where away is 1 if the lease has ended; or
--   {'recovering'}: it cannot be told yet
-- Invariant: changes nothing. A lease that ended does not count, and is struck out by others.
if redis.call('HGET', STATE, 'ends') ~= '0' then return { 'recovering' } end
local keep, now = tonumber(ARGV[1]), milliseconds()
local answer = { 'seats' }
for _, text in ipairs(redis.call('HMGET', KEYS[6], '1', '2')) do
  local seat = text and parse_seat(text)
  if seat then
    local entry, away = entry_of(seat.node), nil
    if entry and entry.lease == seat.lease and tonumber(redis.call('ZSCORE', LEASES, seat.node) or 0) > now then
      away = 0
    elseif kept_for(seat, keep, now) > 0 then
      away = 1
    end
    if away then
      for _, word in ipairs({ away, seat.peer, seat.generation, seat.node, seat.role }) do answer[#answer + 1] = word end
    end
  end
end
return answer
