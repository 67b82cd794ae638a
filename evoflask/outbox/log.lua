-- log: add a batch of attempts to what the clock writes to the delivery log, or drop it.
--
--   attempts  stream  + one batch      logging  string  bytes of all batches
--   totals    hash    what was kept and dropped
--
-- Atomic because the bound must hold for many drains. Its first write may be refused on a full
-- Redis: the log is what gives way.
--
-- ARGV: name, attempts in it, packed, attempts that the drain dropped before, batches at most,
-- bytes at most, share of the memory for entries. Answers 1, or 0: it was dropped.

local name, n, packed = ARGV[1], tonumber(ARGV[2]), ARGV[3]
if tonumber(ARGV[4]) > 0 then
  call('HINCRBY', P .. 'totals', 'attempts:dropped:drain', ARGV[4])
end
if n == 0 then return 1 end
local short = pressure(#packed, tonumber(ARGV[7]))
if call('XLEN', P .. 'attempts') >= tonumber(ARGV[5])
  or tonumber(call('GET', P .. 'logging') or 0) + #packed > tonumber(ARGV[6])
  or (short and (short[3] or short[1] > short[2] * tonumber(ARGV[7]))) then
  call('HINCRBY', P .. 'totals', 'attempts:dropped:redis', n)
  return 0
end
call('XADD', P .. 'attempts', '*', 'name', name, 'rows', packed)
call('INCRBY', P .. 'logging', #packed)
call('HINCRBY', P .. 'totals', 'attempts:kept', n)
return 1
