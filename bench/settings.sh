# Sourced by the series in this directory.

# settings DATA HTTP RTMP RTC: the page of a server on loopback; sections may be appended to it.
settings() {
	cat <<-TOML
		data = "$1"
		[http]
		listen = "127.0.0.1:$2"
		[rtmp]
		listen = "127.0.0.1:$3"
		[rtc]
		listen = "127.0.0.1:$4"
		public_ips = ["127.0.0.1"]
		[log]
		filter = "warn"
	TOML
}
