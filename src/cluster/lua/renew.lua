-- A node renews its lease, and learns who else is there (after common.lua and regime.lua).
--
-- ARGV: 1 node, 2 lease, 3 token, 4 ms a lease lasts, 5 epoch, 6 version of the table of nodes it has seen, 7 whether it
--   has asserted all its seats (0, 1)
-- Returns {status, version, settled, established, dead, node…}, status one of
--   held   renewed. settled 1: no recovery is under way. established 1: every other node has seen this one, so that none
--          can forget to wait for it. dead: how many ended leases, and rooms with seats that
--          are kept no longer, are to be swept. The nodes follow when all is settled
--          and the version is another than ARGV 6.
--   lost   this lease has ended
--   epoch  another epoch began: enter again
-- Costs a fixed number of commands, plus one a node while any node is new; nothing a room.
local node, lease, token, ttl = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local now = milliseconds()
local epoch, ends = regime(ttl, now)
if epoch ~= ARGV[5] then return { 'epoch' } end
local entry = entry_of(node)
if not entry or entry.lease ~= lease or entry.token ~= token then return { 'lost' } end

redis.call('ZADD', LEASES, now + ttl, node)
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '-inf', now)) do reap(gone) end

if ARGV[7] == '1' and entry.asserted == '0' then
  entry.asserted = '1'
  redis.call('SREM', WAITING, node)
end
entry.seen = tonumber(ARGV[6])
set_entry(node, entry)

if ends > 0 then
  local everybody = redis.call('SCARD', WAITING) == 0 and redis.call('HGET', STATE, 'known') == '1'
  if everybody or now >= ends then
    for _, late in ipairs(redis.call('SMEMBERS', WAITING)) do reap(late) end
    redis.call('HSET', STATE, 'ends', 0)
    redis.call('HINCRBY', STATE, 'version', 1)
    ends = 0
  end
end

-- One that has not asserted by then has no lease either.
if not entry_of(node) then return { 'lost' } end
local version = tonumber(redis.call('HGET', STATE, 'version'))
if entry.added > 0 then
  local all = redis.call('HGETALL', NODES)
  local established = true
  for i = 1, #all, 2 do
    local seen = tonumber(string.match(all[i + 1], '(%S+)$'))
    if all[i] ~= node and seen < entry.added then established = false end
  end
  if established then
    entry.added = 0
    set_entry(node, entry)
  end
end

local settled, established = 0, 0
if ends == 0 then settled = 1 end
if entry.added == 0 then established = 1 end
local answer = { 'held', version, settled, established, redis.call('LLEN', DEAD) + redis.call('ZCOUNT', KEPT, '-inf', now) }
if settled == 1 and version ~= tonumber(ARGV[6]) then
  for _, other in ipairs(redis.call('HKEYS', NODES)) do answer[#answer + 1] = other end
end
return answer
