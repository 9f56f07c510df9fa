"""The page that `fer ui` serves: presentation alone; faces are found and read elsewhere in `fer_app`."""
