-- A node goes, having given up all its seats but those that can be taken back (after common.lua).
--
-- ARGV: 1 node, 2 lease, 3 ms that its lease is said to end later, for the seats that are kept.
-- Returns 1 if it held that lease, else 0.
local entry = entry_of(ARGV[1])
if not entry or entry.lease ~= ARGV[2] then return 0 end
reap(ARGV[1], milliseconds() + tonumber(ARGV[3]))
return 1
