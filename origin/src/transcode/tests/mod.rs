mod audio;
mod demand;
mod figures;
mod media;
mod video;
