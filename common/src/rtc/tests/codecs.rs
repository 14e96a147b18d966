//! Which codec a viewer is sent: the source's where it takes it, else what is made of it.

use super::*;

fn vp8_info() -> Info {
    Info { codec: Codec::Vp8, config: Bytes::new(), shape: Shape::Video { width: 640, height: 360, reorders: false } }
}

/// A keyframe and others, each in a packet of its own; all bytes of frame n are n.
fn vp8_gop(stage: &mut Stage, frames: u8) {
    for nth in 0..frames {
        let pts_us = stage.pts_us;
        stage.pts_us += 33_333;
        let sample = Sample { dts_us: pts_us, pts_us, keyframe: nth == 0, payload: vec![nth; 500].into() };
        stage.writer().write(Kind::Video, sample, crate::clock::now_us()).unwrap();
    }
}

fn codec_of(client: &Client, packet: &RtpPacket) -> format::Codec {
    let params = client.rtc.codec_config().params();
    let known = params.iter().find(|params| params.pt() == packet.header.payload_type);
    known.expect("an agreed payload type").spec().codec
}

fn h264_only() -> RtcConfig {
    RtcConfig::new().clear_codecs().enable_h264(true).enable_opus(true, false)
}

#[test]
fn who_takes_the_source_gets_it_and_who_does_not_gets_what_is_made_of_it() {
    let mut stage = Stage::new(2);
    stage.writer().announce(vp8_info()).unwrap();
    vp8_gop(&mut stage, 5);
    let mut derived = stage.broadcast().derive(Conversion::Codec { from: Codec::Vp8, to: Codec::H264 });

    let mut knowing = Client::join(&stage);
    knowing.until("the gop is there", |client| client.pictures() == 5);
    for (nth, packet) in knowing.video.iter().enumerate() {
        assert_eq!(codec_of(&knowing, packet), format::Codec::Vp8);
        assert_eq!((packet.payload[0], &packet.payload[1..]), (0x10, &[nth as u8; 500][..]));
    }
    assert_eq!(derived.track().readers(), 0, "nothing is encoded for it");

    let mut other = Client::taking(&stage, h264_only());
    other.until("it is connected", |client| client.connected);
    let limit = Instant::now() + PATIENCE;
    while derived.track().readers() == 0 {
        assert!(Instant::now() < limit, "nobody wants what is made of it");
        other.turn();
    }
    let source = stage.broadcast().source(Kind::Video).unwrap();
    let newest = source.read(crate::live::Start::Newest).try_next().unwrap();
    derived.write(Frame {
        gop: newest.gop.clone(),
        dts_us: newest.dts_us,
        pts_us: newest.pts_us,
        keyframe: true,
        payload: picture(true, 500),
        info: Arc::new(video_info(false)),
        rtp: Default::default(),
    });
    other.until("it sees H.264", |client| client.keyframes() == 1);
    assert_eq!(codec_of(&other, &other.video[0]), format::Codec::H264);
}

#[test]
fn a_publisher_that_comes_back_with_another_codec_is_seen_in_the_same_session() {
    let mut stage = Stage::new(2);
    stage.gop(5);
    let mut client = Client::join(&stage);
    client.until("the gop is there", |client| client.pictures() == 5);
    stage.writer.take().unwrap().finish(crate::clock::now_us());
    stage.publish();
    stage.writer().announce(vp8_info()).unwrap();
    vp8_gop(&mut stage, 5);
    client.until("the other codec is there", |client| client.pictures() == 10);
    let codecs: Vec<_> = client.video.iter().map(|packet| codec_of(&client, packet)).collect();
    let change = codecs.iter().position(|codec| *codec == format::Codec::Vp8).expect("VP8");
    assert!(codecs[..change].iter().all(|codec| *codec == format::Codec::H264));
    assert!(codecs[change..].iter().all(|codec| *codec == format::Codec::Vp8));
    client.assert_seamless();
}

#[test]
fn who_takes_neither_is_told_what_there_is() {
    let mut stage = Stage::new(1);
    stage.writer().announce(vp8_info()).unwrap();
    vp8_gop(&mut stage, 1);
    let refusal = |stage: &Stage, config: RtcConfig| {
        let mut rtc = config.build(Instant::now());
        let mut api = rtc.sdp_api();
        api.add_media(MediaKind::Video, Direction::RecvOnly, None, None, None);
        let (offer, _pending) = api.apply().unwrap();
        stage.engine.view(&stage.broadcast(), &offer.to_sdp_string()).unwrap_err().to_string()
    };
    let told = refusal(&stage, h264_only());
    assert!(told.contains("H264") && told.ends_with("is available as VP8 only"), "{told}");
    let _derived = stage.broadcast().derive(Conversion::Codec { from: Codec::Vp8, to: Codec::H264 });
    let told = refusal(&stage, RtcConfig::new().clear_codecs().enable_vp9(true));
    assert!(told.ends_with("is available as H264 with packetization-mode=1 or VP8 only"), "{told}");
}
