//! Pictures in the memory of a graphics card: VAAPI encodes no others. In: pictures as the scaler makes them. Out: the same on
//! the card. Everything that is unsafe about it is here. Deliberately absent: decoding there, and the choice of a card: it is
//! the one that libva takes for the first.

use std::ptr;

use ffmpeg_next::{
    self as ff,
    codec::Context,
    ffi::{self, AVBufferRef},
    format::Pixel,
};

/// Surfaces of one encoder: the picture that it refers to, the one under way, and some that drivers keep back.
const SURFACES: i32 = 8;

/// Room for pictures of one form and size.
pub(super) struct Surfaces(Shared);

/// A counted reference of FFmpeg's, never null.
struct Shared(*mut AVBufferRef);

// SAFETY: FFmpeg counts references atomically, and the contexts behind these are made for use by any thread.
unsafe impl Send for Shared {}

impl Shared {
    fn new(reference: *mut AVBufferRef) -> Result<Self, ff::Error> {
        if reference.is_null() { Err(ff::Error::Other { errno: ffi::ENOMEM }) } else { Ok(Self(reference)) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: this is ours alone to give back, once.
        unsafe { ffi::av_buffer_unref(&mut self.0) }
    }
}

fn check(code: i32) -> Result<(), ff::Error> {
    if code < 0 { Err(ff::Error::from(code)) } else { Ok(()) }
}

impl Surfaces {
    /// Fails where there is no card, or no driver for it.
    pub(super) fn new(form: Pixel, width: u32, height: u32) -> Result<Self, ff::Error> {
        let mut device = ptr::null_mut();
        // SAFETY: all that is handed in may be null by hwcontext.h, except for the place of the result.
        check(unsafe {
            let vaapi = ffi::AVHWDeviceType::AV_HWDEVICE_TYPE_VAAPI;
            ffi::av_hwdevice_ctx_create(&mut device, vaapi, ptr::null(), ptr::null_mut(), 0)
        })?;
        let device = Shared::new(device)?;
        // SAFETY: the device is a device context. What is made of it keeps a reference of its own.
        let frames = Shared::new(unsafe { ffi::av_hwframe_ctx_alloc(device.0) })?;
        // SAFETY: hwcontext.h: the data of such a buffer is an AVHWFramesContext, whose fields the caller fills before init.
        check(unsafe {
            let context = (*frames.0).data.cast::<ffi::AVHWFramesContext>();
            (*context).format = ffi::AVPixelFormat::AV_PIX_FMT_VAAPI;
            (*context).sw_format = form.into();
            (*context).width = width as i32;
            (*context).height = height as i32;
            (*context).initial_pool_size = SURFACES;
            ffi::av_hwframe_ctx_init(frames.0)
        })?;
        Ok(Self(frames))
    }

    /// For an encoder that is not open yet.
    pub(super) fn lend(&self, encoder: &mut Context) -> Result<(), ff::Error> {
        // SAFETY: the reference is given to the context, which gives it back when it is freed; it has none yet.
        unsafe {
            let reference = Shared::new(ffi::av_buffer_ref(self.0.0))?;
            (*encoder.as_mut_ptr()).hw_frames_ctx = reference.0;
            std::mem::forget(reference);
        }
        Ok(())
    }

    /// With its times, kind and colours.
    pub(super) fn carry(&self, picture: &ff::frame::Video) -> Result<ff::frame::Video, ff::Error> {
        let mut carried = ff::frame::Video::empty();
        // SAFETY: both frames are valid for as long as they are borrowed; the empty one becomes one of the card's, and FFmpeg
        // refuses to fill it from a picture of another size or form.
        unsafe {
            check(ffi::av_hwframe_get_buffer(self.0.0, carried.as_mut_ptr(), 0))?;
            check(ffi::av_hwframe_transfer_data(carried.as_mut_ptr(), picture.as_ptr(), 0))?;
            check(ffi::av_frame_copy_props(carried.as_mut_ptr(), picture.as_ptr()))?;
        }
        Ok(carried)
    }
}
