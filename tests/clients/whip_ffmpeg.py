"""Publishes by FFmpeg's own WHIP muxer: whip_ffmpeg.py ADDRESS COMMAND…

COMMAND writes NUT with H.264 and Opus to its output; nothing is encoded again. Debian's ffmpeg is older than the muxer, the one
inside the PyAV wheel has it. It makes its own certificate: on the curve P-224, because it was built with GnuTLS. stdin is COMMAND's.
"""

import signal
import subprocess
import sys

import av

address, *command = sys.argv[1:]
# Without a buffer: what there is, is read.
encoder = subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0)
# The end of what it writes is the end of the stream.
signal.signal(signal.SIGINT, lambda *_: encoder.terminate())
source = av.open(encoder.stdout, format="nut", options={"probesize": "100000", "analyzeduration": "500000"})
output = av.open(address, "w", format="whip")
streams = {stream.index: output.add_stream_from_template(stream) for stream in source.streams}
print("FFmpeg", av.ffmpeg_version_info, "publishes", [stream.codec_context.name for stream in source.streams], flush=True)
for packet in source.demux():
    # The demuxer's goodbye has no time.
    if packet.dts is not None:
        packet.stream = streams[packet.stream.index]
        output.mux(packet)
output.close()
encoder.wait()
