//! Viewers who let the server make the offer.

use super::*;

/// Makes a client of an invitation, and its answer.
fn invited(stage: &Stage) -> (Client, String) {
    let socket = UdpSocket::bind((stage.engine.address().ip(), 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
    let mut rtc = RtcConfig::new().set_rtp_mode(true).build(Instant::now());
    rtc.add_local_candidate(Candidate::host(socket.local_addr().unwrap(), "udp").unwrap());
    let invitation = stage.engine.invite(&stage.broadcast()).unwrap();
    let offer = str0m::change::SdpOffer::from_sdp_string(&invitation.sdp).unwrap();
    let answer = rtc.sdp_api().accept_offer(offer).unwrap().to_sdp_string();
    (Client::with(rtc, socket, invitation), answer)
}

#[tokio::test]
async fn an_invited_viewer_sees_the_newest_gop() {
    let mut stage = Stage::new(2);
    stage.gop(20);
    let (mut client, answer) = invited(&stage);
    assert_eq!(client.answer.matches("a=sendonly").count(), 2);
    stage.engine.accept(&client.session, &answer).await.unwrap();
    client.until("the gop is there", |client| client.pictures() == 20);
    stage.write(false, 1_000);
    client.until("sound is there", |client| !client.audio.is_empty());
    client.assert_seamless();
    assert!(matches!(
        stage.engine.accept(&client.session, &answer).await,
        Err(RestartError::Sdp(SdpError::NotInvited))
    ));
}

#[tokio::test]
async fn checks_may_come_before_the_answer() {
    let mut stage = Stage::new(2);
    stage.gop(20);
    let (mut client, answer) = invited(&stage);
    (0..20).for_each(|_| client.turn());
    stage.engine.accept(&client.session, &answer).await.unwrap();
    client.until("the gop is there", |client| client.pictures() == 20);
}

#[tokio::test]
async fn an_answer_that_is_none_is_named() {
    let stage = Stage::new(1);
    let (client, answer) = invited(&stage);
    let refused = stage.engine.accept(&client.session, "hello").await.unwrap_err().to_string();
    assert!(refused.contains("refused"), "{refused}");
    stage.engine.accept(&client.session, &answer).await.unwrap();
    let nobody = SessionId::from("1");
    assert!(matches!(stage.engine.accept(&nobody, &answer).await, Err(RestartError::Gone)));
}
