-- For the operations that may find another server process, or other data, than the last time (after common.lua).
--
-- A server that was restarted, with or without its data, is another process, and a replica that was promoted has another
-- replication id: what they know may be older than what peers were told. Then a new epoch begins: nobody is seated until
-- every node that may hold seats has asserted them, or its lease would have ended. Who may hold seats is said by those
-- who assert; what is stored here may be too old for that.
local function regime(ttl, now)
  local info = redis.call('INFO', 'server', 'replication')
  local run = string.match(info, 'run_id:(%x+)') .. string.match(info, 'master_replid:(%x+)')
  local state = redis.call('HMGET', STATE, 'run', 'epoch', 'ends', 'tick')
  if state[1] ~= run then
    local nodes = redis.call('HGETALL', NODES)
    for i = 1, #nodes, 2 do
      redis.call('SADD', WAITING, nodes[i])
      bury(nodes[i], string.match(nodes[i + 1], '^%S+'), now)
    end
    redis.call('DEL', NODES, LEASES)
    local epoch = string.sub(run, 1, 12) .. '-' .. string.format('%.0f', now)
    redis.call('HSET', STATE, 'run', run, 'epoch', epoch, 'ends', now + ttl, 'known', 0, 'tick', now)
    redis.call('HSETNX', STATE, 'version', 0)
    -- Higher than any that was given out before, also those that were forgotten.
    redis.call('HSET', STATE, 'joins', string.format('%.0f', now * 1000))
    return epoch, now + ttl
  end
  -- Nobody was heard of for long: this server was out of everybody's reach, and nobody's lease ended by that.
  if now - tonumber(state[4]) > ttl / 2 then
    for _, node in ipairs(redis.call('ZRANGE', LEASES, 0, -1)) do
      redis.call('ZADD', LEASES, now + ttl, node)
    end
  end
  redis.call('HSET', STATE, 'tick', now)
  return state[2], tonumber(state[3])
end
