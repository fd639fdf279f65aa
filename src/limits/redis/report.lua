-- What a replica let pass while nobody counted for all. KEYS: one window.
-- ARGV: shift, the window's grid; then per slot how many slots ago, calls, tokens.
local window = roll(KEYS[1], grid(ARGV[2], ARGV[3]), clock(ARGV[1]))
for i = 4, #ARGV, 3 do
  local ago = tonumber(ARGV[i])
  if ago <= window.grid.reach then add(window, window.now - ago, tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])) end
end
save(window)
keep(window.key, window.grid)
return 0
