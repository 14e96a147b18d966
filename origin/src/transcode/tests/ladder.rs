use std::{sync::Arc, time::Duration};

use headwater_common::{
    ladder::{Rendition, Rung},
    live::{Broadcast, Hub, Reader, Start, Track},
    media::{Codec, Conversion, Frame, Shape},
    telemetry::Telemetry,
};

use super::{
    demand::{Studio, next, until},
    media::{BORN_US, broadcast, claim, clip, door, frames, frames_of_one, ladder, program_decodes},
};
use crate::transcode::{
    Settings,
    pace::Pace,
    run,
    still::{Picture, draw},
    video::Video,
};

const LARGE: Rendition = Rendition { height: 360, video_kbps: 600, audio_kbps: 0 };
const SMALL: Rendition = Rendition { height: 180, video_kbps: 200, audio_kbps: 0 };

fn rung(rendition: Rendition) -> Rung {
    let Rendition { height, video_kbps, audio_kbps } = rendition;
    Rung { height, video_kbps, audio_kbps, force: false }
}

fn size(frame: &Frame) -> (u32, u32) {
    match frame.info.shape {
        Shape::Video { width, height, .. } => (width, height),
        Shape::Audio { .. } => panic!("sound"),
    }
}

/// Everything that is made of a source.
fn convert(source: &[Arc<Frame>], outputs: &[Option<Rendition>]) -> Vec<Vec<Frame>> {
    let mut video = Video::new(door());
    for (id, rendition) in outputs.iter().enumerate() {
        video.add(id, *rendition, i64::MIN, None);
    }
    let mut out = Vec::new();
    for frame in source {
        video.take(frame, Pace::Every, &mut out).unwrap();
    }
    let mut made: Vec<Vec<Frame>> = outputs.iter().map(|_| Vec::new()).collect();
    out.into_iter().for_each(|(id, frame)| made[id].push(frame.unwrap()));
    made
}

fn keyframes<'a>(frames: impl IntoIterator<Item = &'a Frame>) -> Vec<i64> {
    frames.into_iter().filter(|frame| frame.keyframe).map(|frame| frame.pts_us).collect()
}

/// An encoder as OBS runs it, with B-frames.
fn source(size: &str, rate: u32, seconds: u32, keyint: u32) -> String {
    format!(
        "-f lavfi -i testsrc2=s={size}:r={rate}:d={seconds} -c:v libx264 -preset veryfast -bf 2 -b:v 1500k \
         -x264-params keyint={keyint}:min-keyint={keyint}:scenecut=0"
    )
}

#[test]
fn all_qualities_have_the_same_pictures_and_the_same_keyframes() {
    let source = frames(&[clip(Codec::H264, &source("854x480", 30, 4, 45))]);
    let made = convert(&source, &[None, Some(LARGE), Some(SMALL)]);
    let expected = keyframes(source.iter().map(|frame| &**frame));
    assert_eq!(expected.len(), 3);
    let times: Vec<i64> = made[0].iter().map(|frame| frame.pts_us).collect();
    assert!(times.len() >= source.len() - 4);
    for (frames, expected_size) in made.iter().zip([(854, 480), (640, 360), (320, 180)]) {
        assert_eq!(keyframes(frames), expected);
        assert_eq!(frames.iter().map(|frame| frame.pts_us).collect::<Vec<_>>(), times);
        assert!(frames.iter().all(|frame| size(frame) == expected_size));
        assert!(frames.windows(2).all(|two| two[0].dts_us < two[1].dts_us));
        assert_eq!(program_decodes(frames), (frames.len(), String::new()));
    }
    // A playlist cuts by decoding time: gops of renditions begin when the source's do.
    for frame in made[1].iter().chain(&made[2]).filter(|frame| frame.keyframe) {
        assert_eq!(frame.dts_us, frame.gop.start_us);
    }
    let bits = |frames: &[Frame]| frames.iter().map(|frame| frame.payload.len() * 8).sum::<usize>() / 4;
    assert!(bits(&made[2]) < bits(&made[1]) && bits(&made[2]) < 300_000, "{} and {}", bits(&made[1]), bits(&made[2]));
}

#[test]
fn fast_odd_and_changing_sources_are_followed() {
    for (size_of_source, rate, expected) in [
        ("640x480", 120, (240, 180)),
        ("853x479", 30, (320, 180)),
        ("270x480", 25, (102, 180)),
        ("1920x200", 60, (1728, 180)),
    ] {
        let arguments = source(size_of_source, rate, 2, rate).replace("-c:v", "-pix_fmt yuv444p -c:v");
        let source = frames(&[clip(Codec::H264, &arguments)]);
        let made = convert(&source, &[Some(SMALL)]).remove(0);
        assert!(made.len() >= source.len() - 4, "{size_of_source}: {} of {}", made.len(), source.len());
        assert_eq!(size(&made[0]), expected, "{size_of_source}");
        assert_eq!(program_decodes(&made), (made.len(), String::new()), "{size_of_source}");
    }
    let ten_bits = "-f lavfi -i testsrc2=s=640x360:r=30:d=2 -c:v libx265 -preset ultrafast -pix_fmt yuv420p10le \
                    -x265-params log-level=error:keyint=30";
    let source_10 = frames(&[clip(Codec::H265, ten_bits)]);
    let made = convert(&source_10, &[Some(SMALL)]).remove(0);
    assert!(made.len() >= source_10.len() - 6);
    assert_eq!(keyframes(&made), keyframes(source_10.iter().map(|frame| &**frame)));
    assert_eq!(program_decodes(&made), (made.len(), String::new()));

    // Smaller than the rendition: nothing is enlarged for those who still follow it.
    let change = [source("640x480", 30, 2, 30), source("160x120", 30, 2, 30)].map(|text| clip(Codec::H264, &text));
    let made = convert(&frames_of_one(&change), &[Some(SMALL)]).remove(0);
    let at = made.iter().position(|frame| size(frame) == (160, 120)).expect("the smaller one");
    assert!(made[at].keyframe && size(&made[at - 1]) == (240, 180));
    assert!(made.windows(2).all(|two| two[0].dts_us < two[1].dts_us));
}

#[test]
fn a_rendition_for_playlists_begins_with_a_whole_gop_and_joins_the_others() {
    let hub = Hub::new();
    let clip = clip(Codec::H264, &source("640x360", 30, 6, 60));
    let mut writer = claim(&hub, 1, BORN_US);
    writer.announce(clip.info.clone()).unwrap();
    let track = broadcast(&hub).source(clip.info.kind()).unwrap();
    let mut reader = track.read(Start::Live);
    let mut video = Video::new(door());
    video.add(0, None, i64::MIN, None);
    let mut made = Vec::new();
    for (at, sample) in clip.samples.iter().enumerate() {
        writer.write(clip.info.kind(), sample.clone(), BORN_US + sample.dts_us.max(0)).unwrap();
        let frame = reader.try_next().unwrap();
        if at == 100 {
            video.add(1, Some(SMALL), i64::MIN, Some(track.read(Start::Whole)));
        }
        video.take(&frame, Pace::Every, &mut made).unwrap();
    }
    let of = |id| made.iter().filter(move |made| made.0 == id).map(|made| made.1.as_ref().unwrap());
    let (full, small): (Vec<_>, Vec<_>) = (of(0).collect(), of(1).collect());
    assert!(full.len() >= clip.samples.len() - 4);
    assert_eq!((small[0].gop.id, small[0].keyframe), (full[0].gop.id, true), "the gop that was over");
    let times = |frames: &[&Frame]| frames.iter().map(|frame| frame.pts_us).collect::<Vec<_>>();
    assert_eq!(times(&small), times(&full), "none is missing and none is there twice");
    assert_eq!(program_decodes(small.iter().copied()), (small.len(), String::new()));
}

#[test]
fn a_keyframe_is_a_picture_to_look_at() {
    for (arguments, size) in [
        (source("1280x720", 30, 1, 30), (853 & !1, 480)),
        (source("320x180", 30, 1, 30), (320, 180)),
        ("-f lavfi -i testsrc2=s=321x179:r=30:d=1 -pix_fmt yuv444p -c:v libx264 -g 30".to_owned(), (320, 178)),
    ] {
        let frames = frames(&[clip(Codec::H264, &arguments)]);
        let png = draw(&frames[0], Picture::Png).unwrap().expect("a picture");
        // The size stands in the first chunk (PNG, section 11.2.1).
        let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
        assert_eq!((&png[1..4], &png[12..16], (number(16), number(20))), (&b"PNG"[..], &b"IHDR"[..], size));
        let jpeg = draw(&frames[0], Picture::Jpeg).unwrap().expect("a picture");
        assert!(jpeg.starts_with(&[0xff, 0xd8]) && jpeg.ends_with(&[0xff, 0xd9]), "{} bytes", jpeg.len());
        assert!((1_000..120_000).contains(&jpeg.len()), "{} bytes", jpeg.len());
        let webp = draw(&frames[0], Picture::Webp).unwrap().expect("a picture");
        assert_eq!((&webp[..4], &webp[8..12]), (&b"RIFF"[..], &b"WEBP"[..]));
        assert!((500..120_000).contains(&webp.len()), "{} bytes", webp.len());
    }
    let mut damaged = clip(Codec::H264, &source("320x180", 30, 1, 30));
    damaged.samples.iter_mut().for_each(|sample| sample.payload = vec![0xa5; 500].into());
    assert!(draw(&frames(&[damaged])[0], Picture::Png).unwrap().is_none());
}

fn rendition(broadcast: &Broadcast, rendition: Rendition) -> Option<Arc<Track>> {
    broadcast.renditions().into_iter().find(|(offered, _)| *offered == rendition).map(|(_, track)| track)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rendition_is_told_of_at_once_and_made_for_those_who_read_it() {
    let clip = clip(Codec::H264, &source("640x480", 30, 25, 60));
    let hub = Hub::new();
    let telemetry = Telemetry::new();
    let ladder = ladder(&[rung(LARGE), rung(SMALL), Rung { height: 720, ..rung(LARGE) }]);
    let room = tokio::spawn(run(hub.clone(), telemetry.clone(), Settings::default(), ladder));
    let studio = Studio::publish(claim(&hub, 1, BORN_US), vec![clip]);
    let broadcast = broadcast(&hub);
    let limit = Duration::from_secs(5);
    until("an offer", limit, || broadcast.renditions().len() == 2).await;
    assert!(rendition(&broadcast, Rendition { height: 720, ..LARGE }).is_none(), "nothing is enlarged");
    let (large, small) = (rendition(&broadcast, LARGE).unwrap(), rendition(&broadcast, SMALL).unwrap());
    let told = small.info().expect("what it will carry");
    assert_eq!(told.shape, Shape::Video { width: 240, height: 180, reorders: false });
    let source = broadcast.source(told.kind()).unwrap();
    until("two gops", limit, || source.stats().frames > 130).await;
    assert_eq!((large.stats().frames, small.stats().frames), (0, 0), "nobody reads");

    // For a conversation: the picture of now.
    let mut conversation = small.read(Start::Newest);
    let first = next(&mut conversation).await;
    let newest_us = studio.written.lock().unwrap().last().unwrap().0;
    assert!(first.keyframe && newest_us - first.pts_us < 500_000, "{} µs old", newest_us - first.pts_us);
    assert_eq!(first.info.rfc6381(), told.rfc6381());
    assert!(telemetry.render().contains("headwater_transcodes{kind=\"video\"} 1"));

    // For a playlist: a gop that is whole, while the other one goes on.
    let mut playlist: Reader = large.read(Start::Oldest);
    let first = next(&mut playlist).await;
    let whole = first.gop.clone();
    assert!(first.keyframe && first.dts_us == whole.start_us);
    let newest = source.read(Start::Newest).try_next().unwrap();
    assert!(whole.id < newest.gop.id, "gop {} is over", whole.id);
    let asked = tokio::time::Instant::now();
    while next(&mut playlist).await.gop.id <= whole.id {}
    assert!(asked.elapsed() < Duration::from_millis(1_500), "{:?} for a gop of two seconds", asked.elapsed());
    assert!(telemetry.render().contains("headwater_transcodes{kind=\"video\"} 2"));

    drop((conversation, playlist));
    until("rest", Duration::from_secs(8), || {
        telemetry.render().contains("headwater_transcodes{kind=\"video\"} 0")
            && large.stats().ring_frames + small.stats().ring_frames == 0
    })
    .await;
    drop(studio);
    room.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_room_the_top_waits_and_the_rest_is_made() {
    let clip = clip(Codec::H264, &source("1920x1080", 10, 12, 20));
    let hub = Hub::new();
    let telemetry = Telemetry::new();
    let top = Rendition { height: 900, ..LARGE };
    let settings = Settings { video_jobs_max: 1, ..Settings::default() };
    let room = tokio::spawn(run(hub.clone(), telemetry.clone(), settings, ladder(&[rung(top), rung(SMALL)])));
    let studio = Studio::publish(claim(&hub, 1, BORN_US), vec![clip]);
    let broadcast = broadcast(&hub);
    let limit = Duration::from_secs(10);
    until("an offer", limit, || broadcast.renditions().len() == 2).await;
    let (high, low) = (rendition(&broadcast, top).unwrap(), rendition(&broadcast, SMALL).unwrap());
    let mut running = low.read(Start::Newest);
    next(&mut running).await;
    let waiting = high.read(Start::Newest);
    until("being told", limit, || high.waiting()).await;
    assert_eq!(broadcast.renditions().len(), 1, "what waits is not offered");
    assert!(telemetry.render().contains("headwater_transcodes_waiting 1"));
    next(&mut running).await;
    drop((running, waiting));
    until("an offer again", limit, || broadcast.renditions().len() == 2).await;
    let conversion = broadcast.derived(Conversion::Rendition(top)).unwrap().origin();
    assert_eq!(conversion, high.origin());
    drop(studio);
    room.abort();
}
