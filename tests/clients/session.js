// Runs inside the page. A WHIP (RFC 9725) or WHEP session: an offer by POST, an ICE restart by PATCH, the end by DELETE.

window.Session = class {
  /**
   * `tcp`: a network that lets no UDP through. `via`: the server is reached at this "address:port" only. `forged`: the offer
   * tells the fingerprint of another certificate.
   */
  constructor(connection, address, { tcp = false, via = null, forged = false } = {}) {
    this.connection = connection;
    this.address = address;
    this.tcp = tcp;
    this.via = via;
    this.forged = forged;
  }

  async open() {
    const { connection } = this;
    await connection.setLocalDescription();
    const headers = { "Content-Type": "application/sdp" };
    const own = connection.localDescription.sdp;
    const body = this.forged ? own.replace(/^(a=fingerprint:sha-256 ..:).*$/gm, `$1${"AB:".repeat(30)}AB`) : own;
    const response = await fetch(this.address, { method: "POST", headers, body });
    const answer = await response.text();
    const location = response.headers.get("Location");
    const [etag, link] = [response.headers.get("ETag"), response.headers.get("Link")];
    this.report = { status: response.status, location, etag, link, restarts: 0 };
    if (response.status !== 201) throw new Error(`${this.address} answered ${response.status}: ${answer}`);
    this.location = new URL(location, this.address);
    window.asked_at = performance.now();
    await connection.setRemoteDescription({ type: "answer", sdp: this.#reach(answer) });
  }

  /** As after a change of networks (RFC 9725 section 4.3.3). */
  async restart() {
    const { connection } = this;
    const offer = await connection.createOffer({ iceRestart: true });
    const answer = connection.remoteDescription.sdp;
    await connection.setLocalDescription(offer);
    const credentials = offer.sdp.match(/^a=ice-(ufrag|pwd):.*\r\n/gm).slice(0, 2).join("");
    const first = offer.sdp.match(/^m=.*\r\n/m)[0] + offer.sdp.match(/^a=mid:.*\r\n/m)[0];
    const headers = { "Content-Type": "application/trickle-ice-sdpfrag", "If-Match": "*" };
    const response = await fetch(this.location, { method: "PATCH", headers, body: credentials + first });
    const fragment = await response.text();
    if (response.status !== 200) throw new Error(`the restart was answered with ${response.status}: ${fragment}`);
    const fresh = Object.fromEntries([...fragment.matchAll(/^a=(ice-ufrag|ice-pwd):(.*?)\r?$/gm)].map(([, key, value]) => [key, value]));
    const sdp = answer.replace(/^a=(ice-ufrag|ice-pwd):.*$/gm, (_, key) => `a=${key}:${fresh[key]}`);
    await connection.setRemoteDescription({ type: "answer", sdp });
    this.report.restarts += 1;
    this.report.etag = response.headers.get("ETag");
  }

  async close() {
    const gone = await fetch(this.location, { method: "DELETE" });
    this.connection.close();
    return gone.status;
  }

  #reach(sdp) {
    if (this.tcp) sdp = sdp.replace(/^a=candidate:\S+ \d+ udp .*\r\n/gim, "");
    if (!this.via) return sdp;
    const [host, port] = this.via.split(":");
    const only = `a=candidate:1 1 udp 2130706431 ${host} ${port} typ host\r\n`;
    return sdp.replace(/^a=candidate:.*\r\n/gm, "").replace(/^a=mid:.*\r\n/gm, (mid) => mid + only);
  }
};

/** What a connection is made with that may use nothing but the TURN servers that this address tells. */
window.relayOnly = async (relay) => {
  if (!relay) return {};
  const { iceServers } = await (await fetch(relay)).json();
  return { iceServers, iceTransportPolicy: "relay" };
};
