"""Publishes by GStreamer's webrtcbin: whip_gstreamer.py ADDRESS h264|vp8 [CERTIFICATE KEY]

The offer goes out without candidates; they follow one by one, by PATCH (RFC 9725 section 4.3.2). SIGINT ends the session by DELETE.
Without a certificate it shows its own, which is RSA.
"""

import hashlib
import queue
import re
import signal
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstSdp", "1.0")
gi.require_version("GstWebRTC", "1.0")
from gi.repository import GLib, Gst, GstSdp, GstWebRTC  # noqa: E402

VIDEO = {
    "h264": "x264enc tune=zerolatency speed-preset=ultrafast bitrate=800 key-int-max=60 ! video/x-h264,profile=constrained-baseline "
    "! rtph264pay pt=96 config-interval=-1 aggregate-mode=zero-latency",
    "vp8": "vp8enc deadline=1 cpu-used=8 keyframe-max-dist=60 target-bitrate=800000 ! rtpvp8pay pt=96",
}


def request(method, address, body, kind=None, **headers):
    if kind:
        headers["Content-Type"] = kind
    made = urllib.request.Request(address, data=body.encode() if body else None, headers=headers, method=method)
    try:
        return urllib.request.urlopen(made, timeout=10)
    except urllib.error.HTTPError as error:
        sys.exit(f"{method} {address}: {error.code} {error.read().decode()}")


Gst.init(None)
address, codec, *files = sys.argv[1:]
certificate, key = (open(file).read() for file in files) if files else (None, None)
pipeline = Gst.parse_launch(
    "webrtcbin name=peer bundle-policy=max-bundle "
    "videotestsrc is-live=true pattern=ball ! video/x-raw,width=640,height=360,framerate=30/1 "
    f"! {VIDEO[codec]} ! application/x-rtp,media=video,encoding-name={codec.upper()},payload=96 ! peer. "
    "audiotestsrc is-live=true ! opusenc ! rtpopuspay pt=100 ! application/x-rtp,media=audio,encoding-name=OPUS,payload=100 ! peer."
)
peer = pipeline.get_by_name("peer")
ice = peer.get_property("ice-agent")
# libnice looks at everything but loopback by itself, and asks the network for a router that speaks UPnP.
ice.emit("add-local-ip-address", "127.0.0.1")
ice.get_property("agent").set_property("upnp", False)
events = queue.SimpleQueue()


def added(_, __, element):
    if element.get_factory() and element.get_factory().get_name() == "dtlsdec":
        element.set_property("pem", certificate + key)


if certificate:
    pipeline.connect("deep-element-added", added)
peer.connect("on-negotiation-needed", lambda _: events.put(("offer", None)))
peer.connect("on-ice-candidate", lambda _, line, candidate: events.put(("candidate", (line, candidate))))
peer.connect("notify::connection-state", lambda peer, _: events.put(("state", peer.get_property("connection-state"))))
signal.signal(signal.SIGINT, lambda *_: events.put(("stop", None)))
pipeline.get_bus().add_signal_watch()
pipeline.get_bus().connect("message::error", lambda _, message: events.put(("error", message.parse_error().gerror.message)))


def offered():
    made = Gst.Promise.new()
    peer.emit("create-offer", None, made)
    made.wait()
    # What is got from the reply lives no longer than the reply.
    reply = made.get_reply()
    offer = reply.get_value("offer")
    peer.emit("set-local-description", offer, Gst.Promise.new())
    if not certificate:
        return offer.sdp.as_text()
    # It tells the fingerprint of the certificate that it would have made.
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate)).digest()
    return re.sub("(a=fingerprint:sha-256) [0-9A-F:]+", f"\\1 {digest.hex(':').upper()}", offer.sdp.as_text())


class Session:
    def __init__(self):
        self.offer = offered()
        response = request("POST", address, self.offer, "application/sdp")
        self.location = urllib.parse.urljoin(address, response.headers["Location"])
        self.etag = response.headers["ETag"]
        _, answer = GstSdp.SDPMessage.new_from_text(response.read().decode())
        described = GstWebRTC.WebRTCSessionDescription.new(GstWebRTC.WebRTCSDPType.ANSWER, answer)
        peer.emit("set-remote-description", described, Gst.Promise.new())

    def candidate(self, line, candidate):
        def field(name):
            return next(text for text in self.offer.splitlines() if text.startswith(name))

        sections = [text for text in self.offer.splitlines() if text.startswith(("m=", "a=mid:"))]
        fragment = [field("a=ice-ufrag:"), field("a=ice-pwd:"), *sections[2 * line : 2 * line + 2], f"a={candidate}", ""]
        kind = "application/trickle-ice-sdpfrag"
        status = request("PATCH", self.location, "\r\n".join(fragment), kind, **{"If-Match": self.etag}).status
        print("candidate", status, candidate, flush=True)

    def end(self):
        print("DELETE", request("DELETE", self.location, None).status, flush=True)


pipeline.set_state(Gst.State.PLAYING)
session = None
while True:
    # Signals of Python are seen between two turns only.
    try:
        event, detail = events.get(timeout=0.1)
    except queue.Empty:
        GLib.MainContext.default().iteration(False)
        continue
    if event == "offer":
        session = Session()
    elif event == "candidate":
        session.candidate(*detail)
    elif event == "state":
        print("state", detail.value_nick, flush=True)
    elif event == "stop":
        session.end()
        break
    else:
        sys.exit(detail)
pipeline.set_state(Gst.State.NULL)
