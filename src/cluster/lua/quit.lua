-- A node goes, having given up all its seats (after common.lua).
--
-- ARGV: 1 node, 2 lease.  Returns 1 if it held that lease, else 0.
local entry = entry_of(ARGV[1])
if not entry or entry.lease ~= ARGV[2] then return 0 end
reap(ARGV[1])
return 1
