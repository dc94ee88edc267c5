"""What each call of the store does in Redis: Lua scripts, each one round trip and one atomic step.

Their keys are computed in the script, from the server's clock and the index, so a Redis Cluster cannot run them. P is the prefix:

    P v:KEY                       a value
    P c:KEY NUL WINDOW:START      a window's sum; lengths and starts have leading zeros, so that texts sort as numbers do
    P l:KEY                       a key's leases: sorted set of tokens by expiry in milliseconds
    P b:BATCH                     a batch that has been added
    P index                       sorted set of every `v:` and `c:` name, scores 0: Redis cannot list keys in order
    P expiry                      those names of it that expire, by when

Redis removes what expires; a write removes a few names of expired keys from the index, and a scan those that it meets.
"""

_COMMON = """
local P = ARGV[1]
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local function start_of(window_s)
    if window_s == 0 then return 0 end
    return math.floor(now_ms / 1000 / window_s) * window_s
end
local function counter(key, window_s, start)
    return 'c:' .. key .. string.char(0) .. string.format('%010d:%012d', window_s, start)
end
local function resets(window_s, start)
    if window_s == 0 then return -1 end
    return math.max(0, (start + window_s) * 1000 - now_ms)
end
local function integer(number)
    return string.format('%.0f', number)
end
local function index(name, expires_ms)
    redis.call('ZADD', P .. 'index', 0, name)
    if expires_ms then
        redis.call('ZADD', P .. 'expiry', expires_ms, name)
    else
        redis.call('ZREM', P .. 'expiry', name)
    end
end
local function sweep()
    local names = redis.call('ZRANGEBYSCORE', P .. 'expiry', '-inf', integer(now_ms - 1000), 'LIMIT', 0, 20)
    for _, name in ipairs(names) do
        if redis.call('EXISTS', P .. name) == 0 then redis.call('ZREM', P .. 'index', name) end
        redis.call('ZREM', P .. 'expiry', name)
    end
end
local function add(key, amount, window_s, start, keep_s)
    local chosen = start
    if start < 0 then chosen = start_of(window_s) end
    local name = counter(key, window_s, chosen)
    if redis.call('EXISTS', P .. name) == 0 then
        local expires_ms = nil
        if window_s > 0 then
            expires_ms = (chosen + window_s + keep_s) * 1000
            if expires_ms <= now_ms then return integer(chosen) .. ' 0 0' end
            redis.call('SET', P .. name, 0, 'PXAT', integer(expires_ms))
        else
            redis.call('SET', P .. name, 0)
        end
        index(name, expires_ms and integer(expires_ms))
        sweep()
    end
    local sum = redis.call('INCRBY', P .. name, amount)
    return integer(chosen) .. ' ' .. integer(sum) .. ' ' .. integer(resets(window_s, chosen))
end
"""

PUT = (
    _COMMON
    + """
local name = 'v:' .. ARGV[2]
if ARGV[4] == '' then
    redis.call('SET', P .. name, ARGV[3])
    index(name, nil)
else
    local expires_ms = integer(now_ms + ARGV[4])
    redis.call('SET', P .. name, ARGV[3], 'PXAT', expires_ms)
    index(name, expires_ms)
end
sweep()
"""
)

DELETE = (
    _COMMON
    + """
local name = 'v:' .. ARGV[2]
redis.call('ZREM', P .. 'index', name)
redis.call('ZREM', P .. 'expiry', name)
return redis.call('DEL', P .. name)
"""
)

SCAN = (
    _COMMON
    + """
-- ARGV: kind, prefix, name to begin behind, limit, bytes.
-- Returns items of (name, value, milliseconds left or -1), and the last name if more follow.
local from = '[' .. ARGV[2] .. ARGV[3]
if ARGV[4] ~= '' then from = '(' .. ARGV[2] .. ARGV[4] end
if ARGV[4] < ARGV[3] then from = '[' .. ARGV[2] .. ARGV[3] end
local limit, size, items, last = tonumber(ARGV[5]), 0, {}, ''
local names = redis.call('ZRANGEBYLEX', P .. 'index', from, '(' .. ARGV[2] .. ARGV[3] .. string.char(127), 'LIMIT', 0, limit + 1)
for at, name in ipairs(names) do
    if at > limit or size > tonumber(ARGV[6]) then return {items, last} end
    local value = redis.call('GET', P .. name)
    if value then
        size = size + #value
        table.insert(items, {name, value, redis.call('PTTL', P .. name)})
    else
        redis.call('ZREM', P .. 'index', name)
        redis.call('ZREM', P .. 'expiry', name)
    end
    last = name
end
return {items, ''}
"""
)

ADD = (
    _COMMON
    + """
-- ARGV: batch, milliseconds that its name is kept, and one text of key, amount, window, start or -1, and seconds kept of each
-- addition: the client takes much longer to send and read many short values. Returns one text of start, sum and milliseconds left.
local counts = true
if ARGV[2] ~= '' then counts = redis.call('SET', P .. 'b:' .. ARGV[2], 1, 'NX', 'PX', ARGV[3]) and true or false end
local tallies = {}
for key, amount, window_s, start, keep_s in string.gmatch(ARGV[4], '(%S+) (%S+) (%S+) (%S+) (%S+)') do
    table.insert(tallies, add(key, counts and amount or '0', tonumber(window_s), tonumber(start), tonumber(keep_s)))
end
return table.concat(tallies, ' ')
"""
)

TAKE = (
    _COMMON
    + """
-- ARGV: one text of key, amount, limit and window of each claim.
-- Returns the milliseconds to wait (0: granted, -1: no wait is long enough) and one text as ADD does.
local tallies, wait = {}, 0
local pattern = '(%S+) (%S+) (%S+) (%S+)'
for key, amount_text, limit_text, window_text in string.gmatch(ARGV[2], pattern) do
    local amount, limit, window_s = tonumber(amount_text), tonumber(limit_text), tonumber(window_text)
    local start = start_of(window_s)
    local sum = tonumber(redis.call('GET', P .. counter(key, window_s, start)) or '0')
    local left = resets(window_s, start)
    table.insert(tallies, integer(start) .. ' ' .. integer(sum) .. ' ' .. integer(left))
    if amount > limit then wait = -1 end
    if sum + amount > limit and wait >= 0 then
        if left < 0 then wait = -1 else wait = math.max(wait, left, 1) end
    end
end
if wait == 0 then
    tallies = {}
    for key, amount, _, window_s in string.gmatch(ARGV[2], pattern) do
        table.insert(tallies, add(key, amount, tonumber(window_s), -1, 0))
    end
end
return {integer(wait), table.concat(tallies, ' ')}
"""
)

ACQUIRE = (
    _COMMON
    + """
local place = P .. 'l:' .. ARGV[2]
redis.call('ZREMRANGEBYSCORE', place, '-inf', integer(now_ms))
if redis.call('ZCARD', place) >= tonumber(ARGV[4]) then return 0 end
redis.call('ZADD', place, integer(now_ms + ARGV[5]), ARGV[3])
redis.call('PEXPIREAT', place, integer(math.max(now_ms + ARGV[5], redis.call('PTTL', place) + now_ms)))
return 1
"""
)

RENEW = (
    _COMMON
    + """
local place = P .. 'l:' .. ARGV[2]
if tonumber(redis.call('ZSCORE', place, ARGV[3]) or '0') <= now_ms then return 0 end
redis.call('ZADD', place, integer(now_ms + ARGV[4]), ARGV[3])
redis.call('PEXPIREAT', place, integer(math.max(now_ms + ARGV[4], redis.call('PTTL', place) + now_ms)))
return 1
"""
)

RELEASE = (
    _COMMON
    + """
local place = P .. 'l:' .. ARGV[2]
local until_ms = tonumber(redis.call('ZSCORE', place, ARGV[3]) or '0')
redis.call('ZREM', place, ARGV[3])
return until_ms > now_ms and 1 or 0
"""
)
