// Runs inside the page. Every connection that a page makes is counted, and the newest can be asked for its figures.

(() => {
  const connections = [];
  if (window.RTCPeerConnection) {
    const Native = window.RTCPeerConnection;
    window.RTCPeerConnection = class extends Native {
      constructor(...settings) {
        super(...settings);
        connections.push(this);
      }
    };
  }

  const received = (entry) => ({
    frames: entry.framesDecoded,
    keyframes: entry.keyFramesDecoded,
    freezes: entry.freezeCount,
    lost: entry.packetsLost,
    packets: entry.packetsReceived,
    repaired: entry.retransmittedPacketsReceived,
    nacks: entry.nackCount,
    plis: entry.pliCount,
    samples: entry.totalSamplesReceived,
    concealed: entry.concealedSamples,
    silent_concealed: entry.silentConcealedSamples,
    energy: entry.totalAudioEnergy,
    jitter_ms: 1000 * entry.jitter,
    // How long the browser held back what it got, on average since the start.
    buffer_ms: (1000 * entry.jitterBufferDelay) / entry.jitterBufferEmittedCount,
    height: entry.frameHeight,
  });

  const sent = (entry, remote) => ({
    active: entry.active,
    frames: entry.framesEncoded,
    keyframes: entry.keyFramesEncoded,
    packets: entry.packetsSent,
    bytes: entry.bytesSent,
    repaired: entry.retransmittedPacketsSent,
    nacks: entry.nackCount,
    plis: entry.pliCount,
    limited_by: entry.qualityLimitationReason,
    height: entry.frameHeight,
    loss: remote?.fractionLost,
    jitter_ms: remote && 1000 * remote.jitter,
    round_trip_ms: remote && 1000 * remote.roundTripTime,
  });

  /** What is received stands under its kind; what is sent under `sent` and its kind, or its layer's name. */
  window.rtcReport = async () => {
    const connection = connections.at(-1);
    if (!connection) return { connections: 0 };
    const stats = await connection.getStats();
    const report = { connections: connections.length, state: connection.connectionState, sent: {} };
    for (const entry of stats.values()) {
      const codec = stats.get(entry.codecId);
      const format = { codec: codec?.mimeType, fmtp: codec?.sdpFmtpLine };
      if (entry.type === "inbound-rtp") report[entry.kind] = { ...format, ...received(entry) };
      if (entry.type === "outbound-rtp") {
        report.sent[entry.rid ?? entry.kind] = { ...format, ...sent(entry, stats.get(entry.remoteId)) };
      }
      if (entry.type === "transport" && entry.selectedCandidatePairId) {
        const pair = stats.get(entry.selectedCandidatePairId);
        const local = stats.get(pair.localCandidateId);
        report.protocol = local?.protocol;
        report.candidate = local?.candidateType;
        report.relay_protocol = local?.relayProtocol;
        report.pair_changes = entry.selectedCandidatePairChanges;
        report.outgoing_bps = pair.availableOutgoingBitrate;
      }
    }
    return report;
  };
})();
