-- Frees seats of leases that ended, a bounded number at a time (after common.lua).
--
-- ARGV: 1 what the names of keys begin with, 2 rooms at most
-- Returns {seats freed, ended leases that are left}
-- Invariant: only seats of exactly the lease that ended are freed.
local lease_of_node = redis.call('LINDEX', DEAD, 0)
if not lease_of_node then return { 0, 0 } end
local node, lease = string.match(lease_of_node, '^(%S+) (%S+)$')
local seats = ARGV[1] .. 'seats:' .. node .. ':' .. lease
local freed = 0
for _, name in ipairs(redis.call('SPOP', seats, ARGV[2])) do
  local room = ARGV[1] .. 'room:' .. name
  local taken = redis.call('HMGET', room, '1', '2')
  for field = 1, 2 do
    local seat = taken[field] and parse_seat(taken[field])
    if seat and seat.node == node and seat.lease == lease then
      redis.call('HDEL', room, field)
      freed = freed + 1
    end
  end
end
if redis.call('EXISTS', seats) == 0 then redis.call('LREM', DEAD, 1, lease_of_node) end
return { freed, redis.call('LLEN', DEAD) }
