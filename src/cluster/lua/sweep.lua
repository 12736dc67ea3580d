-- Frees seats of leases that ended, and of those that are kept no longer, a bounded number at a time (after common.lua).
--
-- ARGV: 1 what the names of keys begin with, 2 rooms at most, 3 ms a seat that can be taken back is kept when its lease has ended
-- Returns {seats freed, how much is left: ended leases, and rooms with seats that are kept no longer}
-- Invariant: only seats of exactly the lease that ended are freed, and none before its time.
local keep, now = tonumber(ARGV[3]), milliseconds()
local freed = 0

-- Frees those seats of a room that `whose` names and that are not kept; says when the next of it is free.
local function sweep_room(name, whose)
  local room = ARGV[1] .. 'room:' .. name
  local taken = redis.call('HMGET', room, '1', '2')
  for field = 1, 2 do
    local seat = taken[field] and parse_seat(taken[field])
    if seat and whose(seat) then
      local longer = kept_for(seat, keep, now)
      if longer > 0 then
        redis.call('ZADD', KEPT, 'LT', now + longer, name)
        seat.lease = string.format('@%.0f', now + longer - keep)
        redis.call('HSET', room, field, seat_text(seat))
      else
        redis.call('HDEL', room, field)
        freed = freed + 1
      end
    end
  end
end

for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEPT, '-inf', now, 'LIMIT', 0, ARGV[2])) do
  redis.call('ZREM', KEPT, name)
  sweep_room(name, function(seat) return string.sub(seat.lease, 1, 1) == '@' end)
end
local left = redis.call('ZCOUNT', KEPT, '-inf', now)

local lease_of_node = redis.call('LINDEX', DEAD, 0)
if lease_of_node then
  local node, lease = string.match(lease_of_node, '^(%S+) (%S+)$')
  local seats = ARGV[1] .. 'seats:' .. node .. ':' .. lease
  for _, name in ipairs(redis.call('SPOP', seats, ARGV[2])) do
    sweep_room(name, function(seat) return seat.node == node and seat.lease == lease end)
  end
  if redis.call('EXISTS', seats) == 0 then
    redis.call('LREM', DEAD, 1, lease_of_node)
    redis.call('HDEL', ENDED, node .. ':' .. lease)
  end
end
return { freed, left + redis.call('LLEN', DEAD) }
