"""Files of rows in and files of answers out, of any length, for the command line."""
