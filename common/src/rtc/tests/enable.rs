//! Viewers who want no picture for a while.

use super::*;

#[test]
fn what_a_viewer_switched_off_is_not_sent_and_comes_back_at_once() {
    let mut stage = Stage::new(1);
    stage.gop(10);
    let mut client = Client::join(&stage);
    client.until("the gop is there", |client| client.pictures() == 10);
    stage.engine.enable(&client.session, Kind::Video, false);
    let (mut pictures, mut sounds) = (0, 0);
    client.until("there is sound only", |client| {
        stage.write(false, 2_000);
        if client.pictures() != pictures {
            (pictures, sounds) = (client.pictures(), client.audio.len());
        }
        client.audio.len() > sounds + 20
    });
    let before = client.pictures();
    stage.engine.enable(&client.session, Kind::Video, true);
    client.until("the picture is back", |client| client.pictures() > before + 20);
    assert_eq!(client.keyframes(), 2, "from the keyframe on");
    client.assert_seamless();
}
