"""A real RTSP server for tests, run by the Python that has GStreamer's bindings: rtsp_server.py PORT [OPTIONS]

With --record it takes a video in H.264 that a client sends to rtsp://127.0.0.1:PORT/live, and writes a line for each
picture that it decodes: "frame MILLISECONDS WIDTH HEIGHT LUMA".

Without, it serves rtsp://127.0.0.1:PORT/live, in H.264, by default 128x64 at 25 frames a second. It writes "ready" when
it listens. Each picture shows in its upper half when it was drawn: milliseconds of the monotonic clock modulo 65536, as
16 bits, the highest left, white for 1.

With --check it starts nothing; the exit status is 1 where something is missing that it needs, and stderr says what.
"""

from __future__ import annotations

import argparse
import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

BITS = 16
SENDS = ("appsrc", "videoconvert", "x264enc", "rtph264pay")
TAKES = ("rtph264depay", "h264parse", "avdec_h264", "videoconvert", "appsink")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", nargs="?")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--height", type=int, default=64)
    parser.add_argument("--fps", type=int, default=25)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--user", help="NAME:PASSWORD that clients must give")
    args = parser.parse_args()
    Gst.init(None)
    missing = [name for name in (TAKES if args.record else SENDS) if Gst.ElementFactory.find(name) is None]
    if missing:
        sys.exit(f"GStreamer has no {', '.join(missing)}")
    if args.check:
        return
    server = GstRtspServer.RTSPServer()
    server.set_service(args.port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(
        "( rtph264depay name=depay0 ! h264parse ! avdec_h264 ! videoconvert ! video/x-raw,format=I420 ! "
        "appsink name=taken emit-signals=true sync=false )"
        if args.record
        else f"( appsrc name=pictures is-live=true format=time caps=video/x-raw,format=GRAY8,width={args.width},"
        f"height={args.height},framerate={args.fps}/1 ! videoconvert ! video/x-raw,format=I420 ! "
        "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 ! "
        "rtph264pay name=pay0 pt=96 config-interval=1 )"
    )
    if args.record:
        factory.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
        factory.set_latency(0)
        factory.connect("media-configure", lambda _, media: watch(media))
    else:
        factory.set_shared(True)
        factory.connect("media-configure", lambda _, media: configure(media, args))
    if args.user:
        name, password = args.user.split(":", 1)
        auth, token = GstRtspServer.RTSPAuth(), GstRtspServer.RTSPToken()
        token.set_string(GstRtspServer.RTSP_TOKEN_MEDIA_FACTORY_ROLE, "viewer")
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(name, password), token)
        server.set_auth(auth)
        roles = GstRtspServer.RTSPPermissions()
        roles.add_role("viewer")
        for what in (
            GstRtspServer.RTSP_PERM_MEDIA_FACTORY_ACCESS,
            GstRtspServer.RTSP_PERM_MEDIA_FACTORY_CONSTRUCT,
        ):
            roles.add_permission_for_role("viewer", what, True)
        factory.set_permissions(roles)
    server.get_mount_points().add_factory("/live", factory)
    if not server.attach(None):
        sys.exit("the port is taken")
    print("ready", flush=True)
    GLib.MainLoop().run()


def watch(media: GstRtspServer.RTSPMedia) -> None:
    def taken(sink: Gst.Element) -> Gst.FlowReturn:
        sample = sink.emit("pull-sample")
        shape, buffer = sample.get_caps().get_structure(0), sample.get_buffer()
        size = f"{shape.get_value('width')} {shape.get_value('height')}"
        print(f"frame {buffer.pts // Gst.MSECOND} {size} {buffer.extract_dup(0, 1)[0]}", flush=True)
        return Gst.FlowReturn.OK

    media.get_element().get_by_name("taken").connect("new-sample", taken)


def configure(media: GstRtspServer.RTSPMedia, args: argparse.Namespace) -> None:
    source = media.get_element().get_by_name("pictures")
    start = GLib.get_monotonic_time()
    step = Gst.SECOND // args.fps
    state = {"alive": True}

    def push() -> bool:
        if not state["alive"]:
            return False
        now = (GLib.get_monotonic_time() // 1000) % 2**BITS
        bar = args.width // BITS
        line = b"".join((b"\xff" if now >> (BITS - 1 - bit) & 1 else b"\0") * bar for bit in range(BITS))
        picture = line * (args.height // 2) + bytes(args.width * (args.height - args.height // 2))
        buffer = Gst.Buffer.new_wrapped(picture)
        buffer.pts = (GLib.get_monotonic_time() - start) * 1000
        buffer.duration = step
        return source.emit("push-buffer", buffer) == Gst.FlowReturn.OK

    media.connect("unprepared", lambda _: state.update(alive=False))
    GLib.timeout_add(1000 // args.fps, push)


if __name__ == "__main__":
    main()
