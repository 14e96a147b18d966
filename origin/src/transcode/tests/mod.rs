mod audio;
mod demand;
mod figures;
mod ladder;
mod media;
mod video;
