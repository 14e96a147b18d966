//! The commands of a publisher, and what each is answered with (§7.2; `FCPublish` and its kin are Adobe's FMLE, which
//! hardware encoders copy: some of them wait for `onFCPublish`).

use super::{Connection, Error, Event, NAME_BYTES_MAX, Publication, PublishRequest, Refusal, Session};
use super::{address, capabilities};
use crate::ingest::rtmp::amf::Value;
use crate::ingest::rtmp::chunk::Message;

impl Session {
    pub(super) fn command(&mut self, message: &Message) -> Result<Option<Event>, Error> {
        let at = self.reader.consumed();
        let values = self.values(message.kind, &message.payload)?;
        let nameless = Error::Nameless { at, kind: message.kind };
        let command = values.first().and_then(Value::as_str).ok_or(nameless)?;
        let transaction = values.get(1).and_then(Value::as_number).unwrap_or(0.0);
        // The third value is the command object, null except for connect.
        let argument = values.get(3);
        let text = argument.and_then(Value::as_str).unwrap_or_default();

        if command == "connect" {
            self.connect(transaction, values.get(2).unwrap_or(&Value::Null), at)?;
            return Ok(None);
        }
        if self.connection.is_none() {
            return Err(Error::NotConnected { at, command: command.to_owned() });
        }
        match command {
            "createStream" => {
                self.streams_created = self.streams_created.saturating_add(1);
                self.replies.result(transaction, Value::Null, f64::from(self.streams_created).into());
            }
            "publish" => return self.publish(message.stream_id, text),
            "FCPublish" => {
                self.replies.result(transaction, Value::Null, Value::Undefined);
                self.replies.on_fc("onFCPublish", "NetStream.Publish.Start", text);
            }
            "FCUnpublish" => {
                self.replies.result(transaction, Value::Null, Value::Undefined);
                self.replies.on_fc("onFCUnpublish", "NetStream.Unpublish.Success", text);
                return Ok(self.unpublish(None));
            }
            "deleteStream" => {
                // A number of a stream, as a double.
                let id = argument.and_then(Value::as_number).map(|id| id as u32);
                return Ok(self.unpublish(id));
            }
            "closeStream" => return Ok(self.unpublish(Some(message.stream_id))),
            "releaseStream" | "_checkbw" => self.replies.result(transaction, Value::Null, Value::Undefined),
            "getStreamLength" => self.replies.result(transaction, Value::Null, 0.0.into()),
            "play" | "play2" => self.replies.status(
                message.stream_id,
                "error",
                "NetStream.Play.Failed",
                "This server takes streams by RTMP; it plays them by WebRTC and HLS.",
            ),
            // Answers to us, and what is said in passing.
            "_result" | "_error" | "onStatus" => {}
            unknown => {
                let description = format!("Method not found ({unknown:.64}).");
                self.replies.error(transaction, "NetConnection.Call.Failed", &description);
            }
        }
        Ok(None)
    }

    fn connect(&mut self, transaction: f64, asked: &Value, at: u64) -> Result<(), Error> {
        if self.connection.is_some() {
            return Err(Error::ConnectedTwice { at });
        }
        let text = |name| asked.get(name).and_then(Value::as_str).unwrap_or_default();
        let (tc_url, encoder) = (text("tcUrl"), text("flashVer"));
        let (app, query) = address::application(text("app"), tc_url);
        if app.is_empty() {
            return Err(Error::NoApplication { tc_url: tc_url.chars().take(256).collect() });
        }
        if app.len() > NAME_BYTES_MAX {
            return Err(Error::NameTooLong { length: app.len() });
        }
        self.replies.begin_connection();
        // Transaction 1 by definition, and some devices send 0.
        let transaction = if transaction == 0.0 { 1.0 } else { transaction };
        self.replies.result(transaction, capabilities::server(), capabilities::connected(asked));
        self.connection = Some(Connection {
            app,
            query,
            tc_url: tc_url.to_owned(),
            encoder: encoder.chars().take(256).collect(),
            reconnects: capabilities::reconnects(asked),
        });
        Ok(())
    }

    fn publish(&mut self, stream_id: u32, name: &str) -> Result<Option<Event>, Error> {
        let Some(Connection { app, query, tc_url, encoder, .. }) = &self.connection else { return Ok(None) };
        let bad_name = |description| (Refusal::BadName.code(), description);
        let (app, stream, query) = address::publication(app, query, name);
        let refusal = if self.publication != Publication::None {
            Some(bad_name("One stream per connection."))
        } else if stream.is_empty() {
            Some(bad_name("The stream key is empty."))
        } else if stream.len() > NAME_BYTES_MAX {
            return Err(Error::NameTooLong { length: stream.len() });
        } else {
            None
        };
        if let Some((code, description)) = refusal {
            self.replies.status(stream_id, "error", code, description);
            return Ok(None);
        }
        self.publication = Publication::Asked { stream_id, name: stream.clone() };
        Ok(Some(Event::PublishRequested(PublishRequest {
            app,
            stream,
            query,
            tc_url: tc_url.clone(),
            encoder: encoder.clone(),
        })))
    }

    /// `None` means whichever is running.
    fn unpublish(&mut self, stream: Option<u32>) -> Option<Event> {
        match self.publication {
            Publication::Running { stream_id } if stream.is_none_or(|id| id == stream_id) => {
                self.replies.status(stream_id, "status", "NetStream.Unpublish.Success", "Stream ended.");
                self.publication = Publication::None;
                Some(Event::Unpublished)
            }
            _ => None,
        }
    }
}
