-- An OBS source that draws the clock which probe.js reads: see there for the layout.
local obs = obslua
local ffi = require("ffi")
local bit = require("bit")

ffi.cdef [[
typedef struct { long seconds; long micros; } headwater_time;
int gettimeofday(headwater_time *now, void *zone);
]]

local WIDTH, ROW, CELLS = 640, 36, 40
local time = ffi.new("headwater_time")

local function now_ms()
  ffi.C.gettimeofday(time, nil)
  return (tonumber(time.seconds) * 1000 + math.floor(tonumber(time.micros) / 1000)) % 2 ^ 32
end

local function row(sync, word)
  local bits = { unpack(sync) }
  local check = 5
  for i = 31, 0, -1 do bits[#bits + 1] = math.floor(word / 2 ^ i) % 2 end
  for i = 0, 28, 4 do check = bit.bxor(check, math.floor(word / 2 ^ i) % 16) end
  for i = 3, 0, -1 do bits[#bits + 1] = math.floor(check / 2 ^ i) % 2 end
  return bits
end

local source = {
  id = "headwater_clock",
  type = obs.OBS_SOURCE_TYPE_INPUT,
  output_flags = bit.bor(obs.OBS_SOURCE_VIDEO, obs.OBS_SOURCE_CUSTOM_DRAW),
}

source.get_name = function() return "Clock" end
source.create = function() return { number = 0 } end
source.destroy = function() end
source.get_width = function() return WIDTH end
source.get_height = function() return 2 * ROW end

source.video_render = function(data)
  local rows = { row({ 1, 0, 1, 0 }, now_ms()), row({ 0, 1, 0, 1 }, 9 * 2 ^ 24 + data.number % 2 ^ 24) }
  data.number = data.number + 1
  local effect = obs.obs_get_base_effect(obs.OBS_EFFECT_SOLID)
  local colour = obs.vec4()
  local function fill(brightness, draw)
    obs.vec4_set(colour, brightness, brightness, brightness, 1)
    obs.gs_effect_set_vec4(obs.gs_effect_get_param_by_name(effect, "color"), colour)
    while obs.gs_effect_loop(effect, "Solid") do draw() end
  end
  fill(0, function() obs.gs_draw_sprite(nil, 0, WIDTH, 2 * ROW) end)
  fill(1, function()
    for y, bits in ipairs(rows) do
      for x, on in ipairs(bits) do
        if on == 1 then
          obs.gs_matrix_push()
          obs.gs_matrix_translate3f((x - 1) * WIDTH / CELLS, (y - 1) * ROW, 0)
          obs.gs_draw_sprite(nil, 0, WIDTH / CELLS, ROW)
          obs.gs_matrix_pop()
        end
      end
    end
  end)
end

obs.obs_register_source(source)
