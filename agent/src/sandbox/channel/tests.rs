mod evidence;
mod fake_guest;
mod framing;
mod requests;
