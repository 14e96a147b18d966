-- Presses "Stop Streaming" when a file named `stop` appears in the home directory, and makes one named `stopped` when
-- OBS has said goodbye to the server.
local obs = obslua
local home = os.getenv("HOME")

local function look()
  local file = io.open(home .. "/stop")
  if not file then return end
  file:close()
  obs.timer_remove(look)
  obs.obs_frontend_streaming_stop()
end

function script_load()
  obs.timer_add(look, 100)
  obs.obs_frontend_add_event_callback(function(event)
    if event == obs.OBS_FRONTEND_EVENT_STREAMING_STOPPED then io.open(home .. "/stopped", "w"):close() end
  end)
end
