//! Origins and edges in one process, each with a hub of its own, and real connections between them.

mod hostile;
mod lines;
mod playlists;
mod pulls;
mod stage;
